"""Files that are on disk, whole, before the next step: a kill or a power failure leaves the old one or the new one."""

from __future__ import annotations

import os
from pathlib import Path


def write_durably(path: Path, data: bytes) -> None:
    """Writes a file, all or nothing; its name is on disk, too. Raises OSError where the file system refuses."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Has a file, or the names in a folder, on disk. Raises OSError where the file system refuses."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def leave_page_cache(path: Path) -> None:
    """Gives back the memory that a file's pages take, which are on disk. Raises OSError where the file system refuses.

    Pages that were written and then read count towards a container's memory as if they were in use.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
