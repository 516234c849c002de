"""The stores of backups, a folder or an S3-compatible bucket, with the same few verbs."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Protocol

from sbrl.errors import RunError
from sbrl.storage.atomic import replacing

PIECE_BYTES = 1 << 20


class Store(Protocol):
    """Files by their path within the store. Every method raises RunError if the file system or the bucket refuses."""

    @property
    def where(self) -> str:
        """The store's name in messages."""
        ...

    def write(self, path: str, file: IO[bytes], size: int, sha256: str) -> None:
        """Writes a file, all or nothing: `size` bytes from the position of `file`, with this checksum (hexadecimal)."""
        ...

    def read(self, path: str) -> AbstractContextManager[IO[bytes] | None]:
        """Opens a file; None if it does not exist."""
        ...

    def folders(self) -> list[str]:
        """The folders in the store."""
        ...

    def age_seconds(self, folder: str, now: float) -> float:
        """Seconds since the last write to a folder. Args: now: Unix seconds."""
        ...

    def remove(self, path: str) -> None:
        """Removes a file, or a folder with its contents. Does nothing if it does not exist."""
        ...


class Folder:
    """A store on a file system."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def where(self) -> str:
        return str(self._root)

    def write(self, path: str, file: IO[bytes], size: int, sha256: str) -> None:
        target = self._root / path
        with _refusals(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target, durable=True) as copy:
                copy.writelines(checked(path, file, sha256))

    @contextmanager
    def read(self, path: str) -> Iterator[IO[bytes] | None]:
        try:
            file = (self._root / path).open("rb")
        except (FileNotFoundError, NotADirectoryError):
            yield None
            return
        except OSError as error:
            raise RunError(f"cannot read {self._root / path}: {error.strerror}") from None
        with file:
            yield file

    def folders(self) -> list[str]:
        with _refusals(self._root):
            return sorted(path.name for path in self._root.iterdir() if path.is_dir()) if self._root.exists() else []

    def age_seconds(self, folder: str, now: float) -> float:
        with _refusals(self._root / folder):
            paths = [self._root / folder, *(self._root / folder).rglob("*")]
            return now - max(path.stat().st_mtime for path in paths)

    def remove(self, path: str) -> None:
        target = self._root / path
        with _refusals(target):
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)


def checked(path: str, file: IO[bytes], sha256: str) -> Iterator[bytes]:
    """The rest of a file, in pieces. Raises RunError at the end if its checksum differs."""
    digest = hashlib.sha256()
    while data := file.read(PIECE_BYTES):
        digest.update(data)
        yield data
    if digest.hexdigest() != sha256:
        raise RunError(f"{path} changed while it was copied: try again")


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot use {error.filename or path} for backups: {error.strerror}") from None
