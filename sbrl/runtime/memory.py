"""The memory that this process uses and may use, and returning freed memory to the system."""

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
    """From now on each block of 1 MB or more returns to the system when it is freed. For roles that handle weights.

    glibc does this by itself until the first such block is freed. After that it keeps blocks of that size among the small ones,
    which pin them: the memory of a coordinator that serves 7 MB of weights goes up and down by tens of megabytes, and grows
    slowly. With other C libraries this function does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


def give_back_freed() -> None:
    """Returns all whole pages that this process has freed to the system, from all of its arenas.

    By itself glibc keeps freed memory that lies below memory in use, in one arena per thread. With other C libraries this
    function does nothing.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident_bytes() -> int:
    """Bytes of memory that this process occupies."""
    return int(psutil.Process().memory_info().rss)


def memory_limit_bytes(cgroups: Path = _CGROUPS, own_cgroup: Path = _OWN_CGROUP) -> int:
    """The smallest of the machine's memory and the limits of this process's control groups.

    Args:
        cgroups: the mount point of control groups. In version 2 the search goes from the process's own group up; in version 1
            it only checks the root, which is where a container sees its own group.
        own_cgroup: the file that names the process's own group.
    """
    return _nearest_limit(cgroups, own_cgroup)[0]


def process_memory() -> tuple[int, str]:
    """(bytes that this process may occupy, their name in a message)."""
    limit = memory_limit_bytes()
    return limit, f"the {limit:,} bytes that this process may use"


def memory_used_bytes(cgroups: Path = _CGROUPS, own_cgroup: Path = _OWN_CGROUP) -> int:
    """Bytes that count towards `memory_limit_bytes`: the working set of the control group with the limit.

    A kubelet counts in the same way. Library pages that another container has loaded do not count, and neither do file pages
    that could be dropped at once. Without a control group's limit, these are the bytes that this process occupies.
    """
    _, folder = _nearest_limit(cgroups, own_cgroup)
    if folder is not None:
        for usage, inactive in (("memory.current", "inactive_file"), ("memory.usage_in_bytes", "total_inactive_file")):
            for used in _read(folder / usage):
                return max(0, used - _statistic(folder / "memory.stat", inactive))
    return resident_bytes()


def _nearest_limit(cgroups: Path, own_cgroup: Path) -> tuple[int, Path | None]:
    """The limit, and the control group that sets it; None for the machine's memory."""
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
    """The number in a file; empty if there is no such file, or its content is max."""
    try:
        return [int(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError):
        return []


def _statistic(path: Path, name: str) -> int:
    """The value of a line in memory.stat; 0 if it is missing."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0)
