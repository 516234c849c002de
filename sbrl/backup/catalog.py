"""The contents of a store of backups.

First NAME/ gets a run's files by part, then NAME/PART.json their checksums, and NAME/backup.json comes last.
Without `backup.json` a backup is incomplete and does not count.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from sbrl.backup.copies import Copy
from sbrl.backup.rules import PART
from sbrl.backup.stores import Folder, Store
from sbrl.errors import RunError, UsageError
from sbrl.runtime.program import check_installed

FORMAT = 1
WHOLE = "backup.json"
UNFINISHED_SECONDS = 86_400.0  # after this time nobody writes to an unfinished backup any more

_log = logging.getLogger(__name__)


class Backup(NamedTuple):
    """A complete backup."""

    name: str
    run_id: str
    made: float  # Unix seconds
    parts: Mapping[str, str]  # the SHA-256 of each part's list of files

    @property
    def shards(self) -> int:
        return sum(part.startswith("replay-") for part in self.parts)


def open_store(url: str) -> Store:
    """The store at a path, or at s3://bucket/prefix. Raises UsageError as `check_installed` and `Bucket`."""
    if not url.startswith("s3://"):
        return Folder(Path(url))
    check_installed("backup or restore with s3://", "s3")
    from sbrl.backup.bucket import Bucket

    return Bucket(url)


def write_part(store: Store, name: str, part: str, copy: Copy) -> int:
    """Writes one part and returns its bytes. Replaces an unfinished one. Raises RunError if the store refuses."""
    store.remove(f"{name}/{part}.json")
    store.remove(f"{name}/{part}")
    for item in copy.items:
        store.write(f"{name}/{part}/{item.path}", item.file, item.size, item.sha256)
    files = {item.path: {"sha256": item.sha256, "bytes": item.size} for item in copy.items}
    _write_json(store, f"{name}/{part}.json", {"format": FORMAT, "files": files})
    return sum(item.size for item in copy.items)


def has_part(store: Store, name: str, part: str) -> bool:
    with store.read(f"{name}/{part}.json") as file:
        return file is not None


def finish(store: Store, name: str, run_id: str, parts: Iterable[str], made: float) -> None:
    """Marks a backup as complete. Args: made: when the last part was copied, in Unix seconds."""
    lists = {part: hashlib.sha256(_read(store, f"{name}/{part}.json")).hexdigest() for part in parts}
    _write_json(store, f"{name}/{WHOLE}", {"format": FORMAT, "run_id": run_id, "made": made, "parts": lists})


def find(store: Store) -> list[Backup]:
    """All complete backups, oldest first. Skips damaged ones, and ones of another format, with a warning.

    Raises:
        RunError: there are only such backups.
    """
    found, unusable = [], []
    for name in store.folders():
        with store.read(f"{name}/{WHOLE}") as file:
            data = None if file is None else file.read()
        if data is not None:
            try:
                found.append(_parsed(f"{store.where}/{name}", name, data))
            except RunError as error:
                unusable.append(error)
    if unusable and not found:
        raise unusable[0]
    for reason in unusable:
        _log.warning("%s", reason)
    return sorted(found, key=lambda one: one.made)


def prune(store: Store, run_id: str, keep: int) -> None:
    """Deletes all but the newest `keep` backups of a run, and incomplete ones that were begun at least a day ago."""
    backups = find(store)
    of_run = [one.name for one in backups if one.run_id == run_id]
    for name in of_run[: max(0, len(of_run) - keep)]:
        store.remove(f"{name}/{WHOLE}")  # first, so that a half-deleted backup does not count
        store.remove(name)
    now, whole = time.time(), {one.name for one in backups}
    for name in store.folders():
        if name not in whole and store.age_seconds(name, now) > UNFINISHED_SECONDS:
            store.remove(name)


def files_of(store: Store, backup: Backup, part: str) -> dict[str, str]:
    """The SHA-256 of each file of a part, by its path in the run directory.

    Raises:
        RunError: the backup has no such part, or it is damaged.
    """
    where = f"{store.where}/{backup.name}"
    if part not in backup.parts:
        raise RunError(f"{where} has no part {part}: it has {', '.join(sorted(backup.parts))}")
    data = _read(store, f"{backup.name}/{part}.json")
    if hashlib.sha256(data).hexdigest() != backup.parts[part]:
        raise RunError(f"{where} is damaged: {part}.json is not the one that was written: take an older backup")
    files = {str(path): str(entry["sha256"]) for path, entry in json.loads(data)["files"].items()}
    for path in files:
        if not PurePosixPath(path).parts or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise RunError(f"{where} is no backup of a run: it has a file {path!r}, outside of a run's directory")
    return files


def choose(store: Store, name: str | None) -> Backup:
    """The backup of this name, or the newest if there is no name.

    Raises:
        UsageError: there is no such backup, or the store has backups of several runs and there is no name.
        RunError: all backups are damaged, or of another format.
    """
    backups = find(store)
    if not backups:
        raise UsageError(f"{store.where} has no backup: a whole one is a folder with {WHOLE} in it, as `sbrl backup` makes")
    names = ", ".join(one.name for one in backups[-10:])
    if name is None:
        if len({one.run_id for one in backups}) > 1:
            raise UsageError(f"{store.where} has backups of several runs: choose one by its name: {names}")
        return backups[-1]
    chosen = [one for one in backups if one.name == name]
    if not chosen:
        raise UsageError(f"{store.where} has no whole backup {name}; there are: {names}")
    return chosen[0]


def _parsed(where: str, name: str, data: bytes) -> Backup:
    try:
        content: Any = json.loads(data)
        number = content["format"]
        if type(number) is int and number != FORMAT:
            raise RunError(
                f"{where} is a backup of format {number}, and this version of SBRL reads {FORMAT}: use the version that made it"
            )
        parts = {str(part): str(digest) for part, digest in content["parts"].items()}
        if number != FORMAT or not all(map(PART.fullmatch, parts)):
            raise ValueError("its parts are not those of a run")
        return Backup(name, str(content["run_id"]), float(content["made"]), parts)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(f"{where} is damaged: {WHOLE} cannot be read ({error}): delete it, and take another backup") from None


def _write_json(store: Store, path: str, content: object) -> None:
    data = json.dumps(content, indent=2).encode()
    store.write(path, io.BytesIO(data), len(data), hashlib.sha256(data).hexdigest())


def _read(store: Store, path: str) -> bytes:
    with store.read(path) as file:
        if file is None:
            raise RunError(f"{store.where} is damaged: {path} is missing: take another backup")
        return file.read()
