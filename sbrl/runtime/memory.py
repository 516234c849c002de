"""How much memory this process occupies, how much it may, and giving back what it has freed."""

from __future__ import annotations

import ctypes
from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
_V1_LIMIT = Path("memory/memory.limit_in_bytes")

LARGE_BLOCK_BYTES = 1_000_000
_M_MMAP_THRESHOLD = -3  # malloc.h


def give_back_large_blocks() -> None:
    """From here on the system gets back each block of 1 MB or more as it is freed. For roles that handle whole weights.

    glibc does so by itself until the first such block is freed; from then on it keeps the like of it among the small ones,
    which hold on to it: a coordinator that serves 7 MB of weights goes up and down by tens of megabytes, and creeps. Other C
    libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


def give_back_freed() -> None:
    """Returns to the system what this process has freed, whole pages of it, wherever among its arenas they are.

    glibc keeps what lies below memory in use, an arena a thread. Other C libraries are left as they are.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident_bytes() -> int:
    """Memory that this process occupies."""
    return int(psutil.Process().memory_info().rss)


def memory_limit_bytes(cgroups: Path = _CGROUPS, own_cgroup: Path = _OWN_CGROUP) -> int:
    """The least of the machine's memory and the limits of the control groups that this process is in.

    Args:
        cgroups: where control groups are mounted; version 2 is searched from the process's own up, version 1 (where a container
            sees its own as the root) at the root.
        own_cgroup: the file that names the process's own.
    """
    return _nearest_limit(cgroups, own_cgroup)[0]


def process_memory() -> tuple[int, str]:
    """(bytes that this process may occupy, what to call them in a message)."""
    limit = memory_limit_bytes()
    return limit, f"the {limit:,} bytes that this process may use"


def memory_used_bytes(cgroups: Path = _CGROUPS, own_cgroup: Path = _OWN_CGROUP) -> int:
    """What counts towards `memory_limit_bytes`: the working set of the control group that has the limit, as a kubelet does.

    Pages of libraries that another container has loaded are not charged to it, and file pages that could be dropped at once are
    no reason to be killed. Without a control group's limit, what this process occupies.
    """
    _, folder = _nearest_limit(cgroups, own_cgroup)
    if folder is not None:
        for usage, inactive in (("memory.current", "inactive_file"), ("memory.usage_in_bytes", "total_inactive_file")):
            for used in _read(folder / usage):
                return max(0, used - _statistic(folder / "memory.stat", inactive))
    return resident_bytes()


def _nearest_limit(cgroups: Path, own_cgroup: Path) -> tuple[int, Path | None]:
    """The limit, and the control group that has it; None for the machine."""
    group = cgroups
    for line in own_cgroup.read_text(encoding="utf-8").splitlines() if own_cgroup.exists() else ():
        if line.startswith("0::"):
            group = cgroups / line.removeprefix("0::").lstrip("/")
    files = [folder / "memory.max" for folder in (group, *group.parents) if folder.is_relative_to(cgroups)]
    least, where = int(psutil.virtual_memory().total), None
    for file in (*files, cgroups / _V1_LIMIT):
        for limit in _read(file):
            if limit < least:
                least, where = limit, file.parent
    return least, where


def _read(path: Path) -> list[int]:
    """The number in a file; none where there is no such file, or it says max."""
    try:
        return [int(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError):
        return []


def _statistic(path: Path, name: str) -> int:
    """A line of memory.stat; 0 where there is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0)
