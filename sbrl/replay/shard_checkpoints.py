"""A shard's checkpoints on disk: complete or recognisably not, ordered by a number of ours.

Reverb keeps one checkpoint in a folder and names it by the clock. It silently loads a truncated file as an empty table, and it
reports success for a checkpoint that it could not write completely. So each finished checkpoint is checked for completeness,
moved out of Reverb's folder, numbered and given checksums. To load a checkpoint, its files are linked back.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import zlib
from pathlib import Path

from sbrl.errors import RunError
from sbrl.storage.atomic import leave_page_cache, sync, write_durably

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_RECORDS = ("tables.tfrecord", "items.tfrecord", "chunks.tfrecord")
_NEEDED = {"tables.tfrecord", "items.tfrecord", "DONE"}
_PIECE_BYTES = 1 << 20
_PREFIX, _SET_ASIDE = "checkpoint-", "corrupt-"
_NAME = re.compile(rf"(?:{_SET_ASIDE})?{_PREFIX}(\d+)")
_NO_FILE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)  # they describe the path, not a failing disk


class ShardCheckpoints:
    """The checkpoints in one shard's folder: `checkpoint-<number>/`, and `reverb/`, which Reverb itself uses."""

    def __init__(self, directory: Path) -> None:
        """Makes the folder.

        Raises:
            OSError: the folder cannot be made.
            RunError: it has checkpoints of an earlier version, whose shards kept the ratio; they cannot be loaded.
        """
        self.directory = directory
        self.reverb_folder = directory / "reverb"
        if directory.is_dir() and any(path.name[0].isdigit() and (path / MANIFEST).exists() for path in directory.iterdir()):
            raise RunError(
                f"{directory} has checkpoints of an earlier version of SBRL, whose replay kept the ratio: start a new run "
                f"directory, or go on with the version that wrote it"
            )
        self.clear_reverb_folder()

    def clear_reverb_folder(self) -> None:
        """Removes files that were linked there for loading, and unfinished files of a killed process."""
        if self.reverb_folder.exists():
            shutil.rmtree(self.reverb_folder)
        self.reverb_folder.mkdir(parents=True)

    def complete(self) -> list[Path]:
        """Finished checkpoints, oldest first. Raises OSError as `finished`."""
        return finished(self.directory)

    def adopt(self, written: Path) -> Path:
        """Takes over a checkpoint from Reverb: adds checksums in a manifest, moves it and numbers it, all durably.

        Raises:
            ValueError: Reverb's files are incomplete.
            OSError: the file system refuses.
        """
        for file in (written / name for name in _RECORDS):
            if not _is_whole(file):
                raise ValueError(f"{file.name} is not whole: Reverb could not write all of it, as on a full disk")
        for file in written.iterdir():
            sync(file)
        _write_manifest(written)
        path = self.directory / f"{_PREFIX}{1 + max(map(_number, self.directory.iterdir()), default=0):012d}"
        written.rename(path)
        sync(self.directory)
        leave_pages(path)
        return path

    def stage(self, checkpoint: Path) -> None:
        """Puts a checkpoint into the folder that Reverb loads from.

        Raises:
            ValueError: the checkpoint was changed or truncated after it was written.
            OSError: the file system refuses; the checkpoint may be good.
        """
        verify(checkpoint)
        self.clear_reverb_folder()
        folder = self.reverb_folder / checkpoint.name
        folder.mkdir()
        for path in checkpoint.iterdir():
            if path.name != MANIFEST:
                _link_or_copy(path, folder / path.name)

    def set_aside(self, corrupt: Path, error: Exception) -> None:
        """Moves an unusable checkpoint out of the way and logs it. Only the last one is kept for inspection."""
        for path in self.directory.glob(f"{_SET_ASIDE}*"):
            shutil.rmtree(path)
        aside = corrupt.rename(self.directory / f"{_SET_ASIDE}{corrupt.name}")
        earlier = [path.name for path in self.complete() if _number(path) < _number(corrupt)]
        remedy = f"going on from the one before, {earlier[-1]}" if earlier else "there is none before it: starting empty"
        logger.warning("checkpoint %s is corrupt (%s): set aside as %s; %s", corrupt, error, aside.name, remedy)

    def prune(self, keep: int) -> None:
        """Deletes all but the newest `keep`."""
        checkpoints = self.complete()
        for path in checkpoints[: max(0, len(checkpoints) - keep)]:
            shutil.rmtree(path)


def finished(directory: Path) -> list[Path]:
    """Finished checkpoints in a folder, oldest first. Raises OSError if they cannot be read (glob would omit them)."""
    found = [path for path in directory.iterdir() if path.name.startswith(_PREFIX) and (path / MANIFEST).exists()]
    return sorted(found, key=_number)


def verify(checkpoint: Path) -> None:
    """Checks a checkpoint's files against its manifest.

    Raises:
        ValueError: a file is missing or differs, or the manifest is invalid.
        OSError: the file system refuses to read one.
    """
    try:
        document = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        digests = {str(name): str(digest) for name, digest in document["sha256"].items()}
    except (*_NO_FILE, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"its {MANIFEST} cannot be read: {type(error).__name__}: {error}") from None
    if missing := _NEEDED - digests.keys():
        raise ValueError(f"its {MANIFEST} does not name {', '.join(sorted(missing))}")
    present = {path.name for path in checkpoint.iterdir() if path.is_file()}
    if missing := digests.keys() - present:
        raise ValueError(f"{', '.join(sorted(missing))} of its {MANIFEST} are missing")
    different = [name for name, digest in digests.items() if _sha256(checkpoint / name) != digest]
    if different:
        raise ValueError(f"{', '.join(different)} differ from {MANIFEST}")


def leave_pages(checkpoint: Path) -> None:
    """Drops a checkpoint's files from the page cache. Raises OSError if the file system refuses."""
    for path in checkpoint.iterdir():
        leave_page_cache(path)


def _number(path: Path) -> int:
    """The number in a checkpoint's name; 0 for anything else."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else 0


def _write_manifest(checkpoint: Path) -> None:
    """Writes the checksums of a checkpoint's files next to them. Afterwards all names in the folder are on disk."""
    digests = {path.name: _sha256(path) for path in sorted(checkpoint.iterdir())}
    write_durably(checkpoint / MANIFEST, json.dumps({"sha256": digests}, indent=2).encode())


def _is_whole(path: Path) -> bool:
    """Whether a file of records is complete, by the checksum at the end of its compressed data."""
    stream = zlib.decompressobj()
    try:
        with path.open("rb") as file:
            while data := file.read(_PIECE_BYTES):
                while data and not stream.eof:
                    stream.decompress(data, _PIECE_BYTES)  # in pieces: frames can unpack to a thousand times their size
                    data = stream.unconsumed_tail
    except (FileNotFoundError, zlib.error):
        return False
    return stream.eof


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # not every file system has hard links
        shutil.copyfile(source, target)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
