"""A shard's checkpoints on disk: whole or recognisably not, and loaded under other limits than those they were made with.

Reverb keeps one checkpoint in a folder, loads a truncated file as an empty table without a word, says that it stored what it
could not write to its end, and takes the limiter, its counts and the table's size from the checkpoint, whatever the new table
has. So finished checkpoints are moved out of its folder once they are seen to be whole, and given checksums; to load one, its
big files are linked back, and its small one, the table's settings, is written anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sbrl.durable import sync
from sbrl.errors import RunError
from sbrl.replay.backend import checkpoint_pb2, tf
from sbrl.sharding import ShardLimits, limiter_bounds

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_TABLES, _ITEMS, _DONE = "tables.tfrecord", "items.tfrecord", "DONE"
_RECORDS = (_TABLES, _ITEMS, "chunks.tfrecord")
_COMPRESSION = "ZLIB"
_PIECE_BYTES = 1 << 20
_SET_ASIDE = "corrupt-"
_LAYOUT_BEFORE = ("earlier", "newest")  # folders of checkpoints without manifests
_NO_FILE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)  # said of what is there, not of the disk


class Contents(NamedTuple):
    """What a checkpoint's manifest says of it."""

    inserted: int  # by the limiter's count
    sampled: int
    owed: float  # samples that the limiter counted as due and not served


class ShardCheckpoints:
    """The checkpoints in one shard's folder: `<time>/`, named by Reverb, and `reverb/`, which is Reverb's own."""

    def __init__(self, directory: Path) -> None:
        """Makes the folder. Raises OSError where that is not possible."""
        self.directory = directory
        self.reverb_folder = directory / "reverb"
        self.clear_reverb_folder()

    def clear_reverb_folder(self) -> None:
        """Removes what was linked there to be loaded, and what a kill left unfinished."""
        if self.reverb_folder.exists():
            shutil.rmtree(self.reverb_folder)
        self.reverb_folder.mkdir(parents=True)

    def complete(self) -> list[Path]:
        """Finished checkpoints, oldest first. Raises OSError where that cannot be told: glob would leave those out."""
        return sorted(path for path in self.directory.iterdir() if path.name[0].isdigit() and (path / MANIFEST).exists())

    def adopt(self, written: Path, zero: float) -> Path:
        """Takes over what Reverb has just written: checksums, a manifest, and a place of its own, all of it on disk.

        Args:
            zero: what the limiter's `inserts * samples_per_insert - samples` is where nothing is owed.

        Raises:
            ValueError: Reverb's files are not whole, or cannot be read.
            OSError: the file system refuses.
        """
        for file in (written / name for name in _RECORDS):
            if not _is_whole(file):
                raise ValueError(f"{file.name} is not whole: Reverb could not write all of it, as on a full disk")
        limiter = read_table(written).rate_limiter
        owed = limiter.insert_count * limiter.samples_per_insert - limiter.sample_count - zero
        for file in written.iterdir():
            sync(file)
        write_manifest(written, Contents(limiter.insert_count, limiter.sample_count, owed))
        sync(written)
        path = self.directory / written.name
        written.rename(path)
        sync(self.directory)
        return path

    def stage(self, checkpoint: Path, limits: ShardLimits, owed: float | None) -> None:
        """Puts a checkpoint where Reverb loads it from, with these limits in place of its own.

        Args:
            owed: samples due and not trained, which the limiter is to admit; None: what it counted itself.

        Raises:
            ValueError: it was changed or cut short since it was written, or says what Reverb could not go on from.
            OSError: the file system refuses; the checkpoint may be good.
        """
        contents = verify_manifest(checkpoint)
        self.clear_reverb_folder()
        folder = self.reverb_folder / checkpoint.name
        folder.mkdir()
        table = read_table(checkpoint)
        _check_table(table, contents)
        excess = _set_limits(table, limits, contents.owed if owed is None else owed)
        _write_records(folder / _TABLES, [table.SerializeToString()])
        for path in checkpoint.iterdir():
            if path.name == _ITEMS and excess > 0:
                logger.info("leaving out the oldest %d transitions: the shard's capacity is smaller now", excess)
                _write_records(folder / _ITEMS, (record for k, record in enumerate(_records(path)) if k >= excess))
            elif path.name not in (_TABLES, MANIFEST):
                _link_or_copy(path, folder / path.name)

    def set_aside(self, corrupt: Path, error: Exception) -> None:
        """Puts a checkpoint that cannot be used out of the way, and says so; only the last one is kept to be looked at."""
        for path in self.directory.glob(f"{_SET_ASIDE}*"):
            shutil.rmtree(path)
        aside = corrupt.rename(self.directory / f"{_SET_ASIDE}{corrupt.name}")
        earlier = [path.name for path in self.complete() if path.name < corrupt.name]
        remedy = f"going on from the one before, {earlier[-1]}" if earlier else "there is none before it: starting empty"
        logger.warning("checkpoint %s is corrupt (%s): set aside as %s; %s", corrupt, error, aside.name, remedy)

    def warn_of_layout_before(self) -> None:
        """Says so, once, where checkpoints lie that versions before have written: they are not read."""
        folders = [name for name in _LAYOUT_BEFORE if (self.directory / name).is_dir()]
        if folders:
            logger.warning(
                "%s has checkpoints of an earlier version of SBRL (%s), which are not read", self.directory, ", ".join(folders)
            )

    def go_back_to(self, name: str, sha256: str) -> None:
        """Deletes all that are later than a checkpoint.

        Args:
            sha256: of its manifest: one of the same name may be of another course of events.

        Raises:
            ValueError: it is missing, changed or cut short; nothing is deleted.
            RunError: the file system refuses; the checkpoint may be good.
        """
        try:
            checkpoints = self.complete()
            if self.directory / name not in checkpoints:
                raise ValueError(f"{self.directory / name} is missing")
            verify_manifest(self.directory / name)
            if size_and_digest(self.directory / name)[1] != sha256:
                raise ValueError(f"{self.directory / name} is not the one that was reported")
            for path in checkpoints:
                if path.name > name:
                    shutil.rmtree(path)
        except OSError as error:
            raise RunError(f"cannot go back to checkpoint {name} in {self.directory}: {error}") from None

    def prune(self, keep: int, needed: set[str]) -> None:
        """Deletes all but the newest `keep` and those that generations need."""
        checkpoints = self.complete()
        for path in checkpoints[: max(0, len(checkpoints) - keep)]:
            if path.name not in needed:
                shutil.rmtree(path)


def read_table(checkpoint: Path) -> Any:
    """The table's settings, a PriorityTableCheckpoint.

    Raises:
        ValueError: the file does not hold exactly one.
    """
    try:
        records = list(_records(checkpoint / _TABLES))
        (record,) = records
        return checkpoint_pb2.PriorityTableCheckpoint.FromString(record)
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise ValueError(f"its {_TABLES} cannot be read: {error}") from None
    except Exception as error:  # protobuf's own DecodeError is not public under one name
        if type(error).__name__ != "DecodeError":
            raise
        raise ValueError(f"its {_TABLES} cannot be read: {error}") from None


def write_manifest(checkpoint: Path, contents: Contents) -> None:
    """Writes the checksums of a checkpoint's files, and what it holds, beside them, atomically."""
    digests = {path.name: _sha256(path) for path in sorted(checkpoint.iterdir())}
    unfinished = checkpoint / f"{MANIFEST}.tmp"
    unfinished.write_text(json.dumps({"sha256": digests, **contents._asdict()}, indent=2), encoding="utf-8")
    sync(unfinished)
    unfinished.replace(checkpoint / MANIFEST)


def read_manifest(checkpoint: Path) -> tuple[dict[str, str], Contents]:
    """The checksums of a checkpoint's files by name, and what it holds.

    Raises:
        ValueError: there is no manifest, or it is none, or what it says is owed is no number.
        OSError: the file system refuses to read it.
    """
    try:
        document = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        digests = {str(name): str(digest) for name, digest in document["sha256"].items()}
        contents = Contents(int(document["inserted"]), int(document["sampled"]), float(document["owed"]))
    except (*_NO_FILE, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"its {MANIFEST} cannot be read: {type(error).__name__}: {error}") from None
    if not math.isfinite(contents.owed):  # a limiter set to it would admit nothing, or everything
        raise ValueError(f"its {MANIFEST} says that {contents.owed} samples are owed")
    if missing := {_TABLES, _ITEMS, _DONE} - digests.keys():
        raise ValueError(f"its {MANIFEST} does not name {', '.join(sorted(missing))}")
    return digests, contents


def verify_manifest(checkpoint: Path) -> Contents:
    """Checks a checkpoint's files against its manifest; returns what it holds.

    Raises:
        ValueError: a file is missing or differs, or the manifest is none.
        OSError: the file system refuses to read one.
    """
    digests, contents = read_manifest(checkpoint)
    present = {path.name for path in checkpoint.iterdir() if path.is_file()}
    if missing := digests.keys() - present:
        raise ValueError(f"{', '.join(sorted(missing))} of its {MANIFEST} are missing")
    different = [name for name, digest in digests.items() if _sha256(checkpoint / name) != digest]
    if different:
        raise ValueError(f"{', '.join(different)} differ from {MANIFEST}")
    return contents


def size_and_digest(checkpoint: Path) -> tuple[int, str]:
    """Bytes of a checkpoint's files, and the SHA-256 of its manifest."""
    return sum(path.stat().st_size for path in checkpoint.iterdir()), _sha256(checkpoint / MANIFEST)


def _check_table(table: Any, contents: Contents) -> None:
    """Looks at what Reverb takes from a table's settings without a look of its own.

    Raises:
        ValueError: with these it would abort the process, wait for ever, or lose the items.
    """
    if not (table.sampler.WhichOneof("distribution") and table.remover.WhichOneof("distribution")):
        raise ValueError(f"its {_TABLES} names no sampler or no remover")
    limiter = table.rate_limiter
    counted = limiter.insert_count, limiter.sample_count
    if counted != (contents.inserted, contents.sampled) or not 0 <= limiter.delete_count <= limiter.insert_count:
        raise ValueError(
            f"its {_TABLES} counts {counted[0]} insertions, {limiter.delete_count} deletions and {counted[1]} samples, "
            f"its {MANIFEST} {contents.inserted} insertions and {contents.sampled} samples"
        )


def _set_limits(table: Any, limits: ShardLimits, owed: float) -> int:
    """Gives a table new limits; returns how many of its items, the oldest ones, are too many for it."""
    limiter = table.rate_limiter
    excess = max(0, limiter.insert_count - limiter.delete_count - limits.capacity)
    table.max_size = limits.capacity
    limiter.delete_count += excess
    limiter.samples_per_insert = limits.samples_per_insert
    limiter.min_size_to_sample = limits.min_size
    limiter.min_diff, limiter.max_diff = limiter_bounds(limits, limiter.insert_count, limiter.sample_count, owed)
    return int(excess)


def _records(path: Path) -> Iterator[bytes]:
    yield from tf.data.TFRecordDataset(str(path), compression_type=_COMPRESSION).as_numpy_iterator()


def _write_records(path: Path, records: Iterator[bytes] | list[bytes]) -> None:
    """Raises OSError where the file system refuses, ValueError where `records` cannot be read."""
    try:
        with tf.io.TFRecordWriter(str(path), options=_COMPRESSION) as writer:
            for record in records:
                writer.write(record)
    except tf.errors.DataLossError as error:
        raise ValueError(f"its {path.name} cannot be read: {error}") from None
    except tf.errors.OpError as error:
        raise OSError(f"cannot write {path}: {error}") from None


def _is_whole(path: Path) -> bool:
    """Whether a file of records is all there, by the checksum that its compression ends with."""
    stream = zlib.decompressobj()
    try:
        with path.open("rb") as file:
            while data := file.read(_PIECE_BYTES):
                while data and not stream.eof:
                    stream.decompress(data, _PIECE_BYTES)  # in pieces: frames unpack to a thousand times their size
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
