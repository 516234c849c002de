"""Files that are written whole or not at all, and durable ones, which are on disk before the next step."""

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
    """A file to write to, which takes the place of `path` once it is whole; a failure leaves the old one.

    Args:
        text: it is UTF-8, with line ends as they are written; else bytes.
        durable: a power failure, too, leaves the old one or the new one.

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
        with contextlib.suppress(OSError):  # what refused to write may refuse this
            unfinished.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def write_durably(path: Path, data: bytes) -> None:
    """Writes a file, all or nothing; its name is on disk, too. Raises OSError where the file system refuses."""
    with replacing(path, durable=True) as file:
        file.write(data)


def replace_text(path: Path, text: str) -> None:
    """Writes a text file, all or nothing. Raises RunError where the file system refuses."""
    try:
        with replacing(path, text=True) as file:
            file.write(text)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from None


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
