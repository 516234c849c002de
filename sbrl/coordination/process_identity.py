"""Identifies a process by machine, PID and start time, so that others can check whether it still exists."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE = "/proc/self/ns/pid"
_SEPARATOR = " "


def own_identity() -> str:
    """This process's identity: host name, boot and PID namespace, PID, and start time."""
    process = psutil.Process()
    return _SEPARATOR.join((socket.gethostname(), _world(), str(process.pid), f"{process.create_time():.2f}"))


def is_gone(identity: str) -> bool:
    """Whether a process is known to be gone.

    True if it ran on this host and has ended, or ran in an earlier boot or container. False if this is unknown: for a process
    on another host, or an invalid identity. Each pod has its own host name, and its containers run one after the other.
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
    """A text for people: the host and the PID."""
    parts = identity.split(_SEPARATOR)
    return f"process {parts[2]} on {parts[0]}" if len(parts) == 4 else "another process"


def _world() -> str:
    """The boot and the PID namespace, within which a PID is valid."""
    return f"{_BOOT_ID.read_text(encoding='ascii').strip()}/{os.readlink(_PID_NAMESPACE)}"
