"""Writes files completely or not at all. Durable files are on disk before the next step."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from sbrl.errors import RunError


@contextmanager
def replacing(path: Path, *, text: bool = False, durable: bool = False) -> Iterator[IO[Any]]:
    """A file to write to. It replaces `path` once it is complete; a failure leaves the old file.

    Args:
        text: True for UTF-8 with unchanged line ends; False for bytes.
        durable: even a power failure leaves either the old file or the new one.

    Raises:
        OSError: the file system refuses.
    """
    unfinished = path.with_name(f"{path.name}.partial")
    try:
        with unfinished.open("w", encoding="utf-8", newline="") if text else unfinished.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # a file system that refused the write may refuse this, too
            unfinished.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def write_durably(path: Path, data: bytes) -> None:
    """Writes a file, all or nothing, and its name to disk. Raises OSError if the file system refuses."""
    with replacing(path, durable=True) as file:
        file.write(data)


def replace_text(path: Path, text: str) -> None:
    """Writes a text file, all or nothing. Raises RunError if the file system refuses."""
    try:
        with replacing(path, text=True) as file:
            file.write(text)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from None


def sync(path: Path) -> None:
    """Forces a file, or the names in a folder, to disk. Raises OSError if the file system refuses."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def leave_page_cache(path: Path) -> None:
    """Drops a file's pages, which are on disk, from the page cache. Raises OSError if the file system refuses.

    Pages that were written and then read count towards a container's memory as if they were in use.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
