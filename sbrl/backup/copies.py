"""Copies a run's files while it runs: each part is complete and from one moment.

Complete checkpoints never change; a role only deletes old ones. So their files are opened first, and stay readable as long as
they are open. Files that do change are copied first: the coordinator's database (`copy_database`) and the actors' counters.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import shutil
import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple

from sbrl.errors import RunError
from sbrl.replay.shard_checkpoints import finished
from sbrl.storage.black_box import snapshot
from sbrl.storage.checkpoints import list_checkpoints
from sbrl.storage.run_directory import RunDirectory

MANIFEST = "manifest.json"  # in checkpoints of learners and shards
DATABASE = "state.sqlite"
TRIES = 20  # attempts to copy files before their role changes or deletes them
_WAL_HEADER_BYTES = 32

_log = logging.getLogger(__name__)


class Item(NamedTuple):
    """A file of a part."""

    path: str  # in the run directory
    file: IO[bytes]  # at its beginning
    size: int  # bytes
    sha256: str  # hexadecimal


class Copy(NamedTuple):
    """A part of a run, ready to be written somewhere."""

    what: str  # what was copied, for people
    items: list[Item]


def copy_part(run: RunDirectory, part: str, scratch: Path, closing: contextlib.ExitStack) -> Copy:
    """One part: of the learner, of a shard (replay-0, ...), of the coordinator, or the files of the whole run (run).

    Args:
        scratch: an empty folder, for a copy of the coordinator's database.
        closing: closes the files.

    Raises:
        RunError: the part has nothing complete, or cannot be read.
    """
    try:
        if part == "run":
            return copy_run(run, closing)
        if part == "coordinator":
            return copy_coordinator(run, scratch, closing)
        if part == "learner":
            return copy_newest(run, lambda: list_checkpoints(run.learner_checkpoints), closing)
        folder = run.replay_checkpoints(int(part.removeprefix("replay-")))
        copy = copy_newest(run, lambda: finished(folder) if folder.is_dir() else [], closing)
        sampling = folder / "sampling"
        return copy._replace(items=copy.items + ([open_item(run, sampling, closing)] if sampling.exists() else []))
    except OSError as error:
        raise RunError(f"cannot copy {part} of {run.path}: {error.filename or ''}: {error.strerror}") from None


def copy_newest(run: RunDirectory, candidates: Callable[[], list[Path]], closing: contextlib.ExitStack) -> Copy:
    """The newest complete checkpoint. Skips a damaged one with a warning, as its role does.

    Args:
        candidates: lists the checkpoints, oldest first.

    Raises:
        RunError: there are checkpoints, but none is complete.
    """
    damaged: dict[Path, Exception] = {}
    found = Copy("no checkpoint yet", [])
    for _ in range(TRIES):
        left = [path for path in candidates() if path not in damaged]
        if not left:
            break
        try:
            found = Copy(left[-1].name, open_checkpoint(run, left[-1], closing))
            break
        except (ValueError, KeyError, TypeError, AttributeError, FileNotFoundError) as error:
            damaged[left[-1]] = error
    # The others were only just deleted, because of a newer one.
    damaged = {path: reason for path, reason in damaged.items() if path.exists()}
    if damaged and not found.items:
        raise RunError(f"none of {', '.join(map(str, sorted(damaged)))} is whole: there is nothing to back up")
    for path, reason in damaged.items():
        _log.warning("%s is left out: %s", path, reason)
    return found


def open_checkpoint(run: RunDirectory, checkpoint: Path, closing: contextlib.ExitStack) -> list[Item]:
    """
    Raises:
        ValueError, KeyError, TypeError, AttributeError, FileNotFoundError: it is incomplete.
    """
    manifest = open_item(run, checkpoint / MANIFEST, closing)
    digests = json.loads(manifest.file.read())["sha256"]
    manifest.file.seek(0)
    items = {name: open_item(run, checkpoint / str(name), closing) for name in digests}
    changed = [name for name, item in items.items() if item.sha256 != digests[name]]
    if changed:
        raise ValueError(f"{', '.join(changed)} differ from {MANIFEST}")
    return [*items.values(), manifest]


def open_item(run: RunDirectory, path: Path, closing: contextlib.ExitStack, under: Path | None = None) -> Item:
    """Args: under: the file's folder in the run directory, if `path` is elsewhere."""
    file = closing.enter_context(path.open("rb"))
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    size = file.tell()
    file.seek(0)
    where = path if under is None else under / path.name
    return Item(where.relative_to(run.path).as_posix(), file, size, digest)


def copy_run(run: RunDirectory, closing: contextlib.ExitStack) -> Copy:
    """A local run's files besides its roles' parts: its config, its clock, and its actors' counters."""
    items = [open_item(run, path, closing) for path in (run.config, run.summary) if path.exists()]
    for path in sorted((run.path / "counts").glob("*.bin")):
        data = snapshot(path)
        digest = hashlib.sha256(data).hexdigest()
        items.append(Item(path.relative_to(run.path).as_posix(), io.BytesIO(data), len(data), digest))
    return Copy("", items)


def copy_coordinator(run: RunDirectory, scratch: Path, closing: contextlib.ExitStack) -> Copy:
    """The database, and the complete ones of the versions of weights that it knows.

    Raises:
        RunError: there is no database, it is damaged, or it changed during every attempt to copy it.
    """
    source = run.coordinator / DATABASE
    if not source.is_file():
        raise RunError(f"{source} is not there: the run's counts are in it, and nothing can go on without them")
    for number in range(TRIES):
        target = scratch / str(number) / DATABASE
        target.parent.mkdir()
        with contextlib.ExitStack() as opened:
            # Open them before and after the database. It knows the newest two versions, and one of them is among these.
            held = open_weights(run, opened)
            if not copy_database(source, target):
                continue
            held |= open_weights(run, opened)
            known = weights_of(target)
            whole = [held[name] for name, (size, crc32) in known.items() if name in held and is_file(held[name], size, crc32)]
            if not known or whole:
                closing.enter_context(opened.pop_all())
                steps = f"{len(whole)} version{'' if len(whole) == 1 else 's'} of weights"
                return Copy(steps, [*whole, open_item(run, target, closing, under=run.coordinator)])
    raise RunError(f"{source} changed each time while it was copied: try again when the run is less busy")


def open_weights(run: RunDirectory, closing: contextlib.ExitStack) -> dict[str, Item]:
    found = {}
    for path in run.coordinator.glob("weights-*.safetensors"):
        with contextlib.suppress(FileNotFoundError):  # a newer one has just replaced it
            found[path.name] = open_item(run, path, closing)
    return found


def is_file(item: Item, size: int, crc32: int) -> bool:
    data = item.file.read()
    item.file.seek(0)
    return len(data) == size and zlib.crc32(data) == crc32


def weights_of(database: Path) -> dict[str, tuple[int, int]]:
    """(bytes, CRC-32) of each version that a database knows, by file name."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT version, size_bytes, crc32 FROM weights").fetchall()
    return {f"weights-{version:010d}.safetensors": (size, crc32) for version, size, crc32 in rows}


def copy_database(source: Path, target: Path) -> bool:
    """Copies a SQLite database that another process has locked (exclusively, with a write-ahead log) and writes to.

    Pages only get into the file from the log, and they stay in the log until it starts again with a new header. So first the
    file is copied, then the log. If the header has not changed, both together are the state at the time when the log was
    copied. A record that was being appended then has no valid checksum, and SQLite ignores it.

    Returns whether the copy is from one moment. False: the log started again meanwhile, so try again.

    Args:
        target: must not exist; becomes a single file, without a log.

    Raises:
        RunError: the copy is damaged, and so is the database.
    """
    log, copied_log = (path.with_name(f"{path.name}-wal") for path in (source, target))
    before = _header(log)
    shutil.copyfile(source, target)
    with contextlib.suppress(FileNotFoundError):  # a properly closed database has none
        shutil.copyfile(log, copied_log)
    if not before == _header(copied_log) == _header(log):
        return False
    try:
        with contextlib.closing(sqlite3.connect(target, isolation_level=None)) as connection:
            (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if said != "ok":
                raise sqlite3.DatabaseError(said)
            connection.execute("PRAGMA journal_mode = DELETE")  # writes the log back into the one file
    except sqlite3.DatabaseError as error:
        raise RunError(f"the coordinator's state {source} is damaged ({error}): restore it from an older backup") from None
    return True


def _header(log: Path) -> bytes:
    try:
        with log.open("rb") as file:
            return file.read(_WAL_HEADER_BYTES)
    except FileNotFoundError:
        return b""
