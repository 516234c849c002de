"""Names a process (machine, number, beginning), so that another can tell whether it is still there."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE = "/proc/self/ns/pid"
_SEPARATOR = " "


def own_identity() -> str:
    """Of this process: host name, boot and PID namespace, number, and start time."""
    process = psutil.Process()
    return _SEPARATOR.join((socket.gethostname(), _world(), str(process.pid), f"{process.create_time():.2f}"))


def is_gone(identity: str) -> bool:
    """Whether a process is known to be gone: it is of this host, and ended, or of a boot or a container before this one.

    False where that cannot be told: on another host, or of an identity that is none. A pod's host name is its own, and its
    containers follow one another.
    """
    parts = identity.split(_SEPARATOR)
    if len(parts) != 4 or parts[0] != socket.gethostname():
        return False
    if parts[1] != _world():
        return True
    try:
        process = psutil.Process(int(parts[2]))
        return process.status() == psutil.STATUS_ZOMBIE or f"{process.create_time():.2f}" != parts[3]
    except (psutil.Error, ValueError, OverflowError):
        return True


def described(identity: str) -> str:
    """For people: the host and the process's number."""
    parts = identity.split(_SEPARATOR)
    return f"process {parts[2]} on {parts[0]}" if len(parts) == 4 else "another process"


def _world() -> str:
    """The boot and the PID namespace, within which a process's number means something."""
    return f"{_BOOT_ID.read_text(encoding='ascii').strip()}/{os.readlink(_PID_NAMESPACE)}"
