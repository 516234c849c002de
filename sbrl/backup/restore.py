"""Restores a backup so that a run can continue from it: `sbrl restore SOURCE RUN_DIR`.

Afterwards, `sbrl train --resume --run-dir RUN_DIR` continues the run.

SOURCE is a folder or s3://BUCKET/PREFIX with backups, and the newest is restored; or it is one backup in there.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from sbrl.backup.catalog import WHOLE, Backup, choose, files_of, open_store
from sbrl.backup.copies import DATABASE
from sbrl.backup.rules import part_of
from sbrl.backup.stores import Store
from sbrl.errors import RunError, UsageError
from sbrl.runtime.arguments import Parser, whole_number
from sbrl.runtime.program import run_program
from sbrl.storage.atomic import sync
from sbrl.storage.run_directory import LOCK

UNFINISHED = ".restoring"
_PIECE_BYTES = 1 << 20


def main(argv: Sequence[str]) -> None:
    parser = Parser(prog="sbrl restore", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SOURCE", help="where the backups are, or one of them")
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="an empty folder, or one that is not there yet")
    in_pods = parser.add_argument_group("for pods, each of which has one role's volume")
    in_pods.add_argument("--part", type=part_of, metavar="PART", help="this part alone: learner, coordinator, replay-0, ...")
    in_pods.add_argument("--shards", type=whole_number(1, 65), metavar="N", help="how many the run has now")
    in_pods.add_argument("--if-empty", action="store_true", help="leave a folder as it is that has something in it")
    arguments = parser.parse_args(argv)
    target: Path = arguments.run_dir
    if holds(target):
        if arguments.if_empty:
            print(f"{target} has data: nothing is restored")
            return
        raise UsageError(f"{target} is not empty: a backup is restored into a folder of its own, choose another one")
    store, name = find_store(arguments.source)
    backup = choose(store, name)
    if arguments.shards not in (None, backup.shards):
        raise UsageError(
            f"{store.where}/{backup.name} is of a run with {backup.shards} shards, and replay.num_shards is "
            f"{arguments.shards}: set it to {backup.shards}"
        )
    parts = [arguments.part] if arguments.part else list(backup.parts)
    restore(store, backup, parts, target)
    print(f"{store.where}/{backup.name}: {', '.join(parts)} restored to {target}")


def find_store(source: str) -> tuple[Store, str | None]:
    """The store in `source`, and the backup's name if `source` is a backup."""
    store = open_store(source.rstrip("/"))
    with store.read(WHOLE) as file:
        if file is None:
            return store, None
    above, _, name = source.rstrip("/").rpartition("/")
    return open_store(above or "."), name


def holds(target: Path) -> bool:
    """Whether a folder has data. Files of the file system, of a lock or of an interrupted restore do not count.

    Raises:
        RunError: it cannot be read.
    """
    try:
        names = {path.name for path in target.iterdir()} if target.exists() else set()
    except OSError as error:
        raise RunError(f"cannot restore to {target}: {error.strerror}") from None
    # As long as this folder exists, everything else is from the same restore.
    return UNFINISHED not in names and bool(names - {LOCK, "lost+found"})


def restore(store: Store, backup: Backup, parts: Sequence[str], target: Path) -> None:
    """Restores all of these parts, or nothing.

    Raises:
        RunError: the backup is damaged, or the file system refuses.
    """
    unfinished = target / UNFINISHED
    try:
        clear(target)
        unfinished.mkdir(parents=True)
        for part in parts:
            for path, digest in files_of(store, backup, part).items():
                fetch(store, f"{backup.name}/{part}/{path}", unfinished / path, digest)
        end_leases(unfinished / "coordinator" / DATABASE)
        for entry in sorted(unfinished.iterdir()):
            entry.rename(target / entry.name)
        sync(target)
        unfinished.rmdir()
        sync(target)
    except BaseException as error:
        with contextlib.suppress(OSError):  # a volume that refused one call may refuse the other
            clear(target)
        if isinstance(error, OSError):
            raise RunError(f"cannot restore to {error.filename or target}: {error.strerror}") from None
        raise


def clear(target: Path) -> None:
    """Removes the files of an interrupted restore."""
    if (target / UNFINISHED).exists():
        for path in target.iterdir():
            if path.name not in (LOCK, "lost+found", UNFINISHED):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(target / UNFINISHED)


def fetch(store: Store, path: str, target: Path, sha256: str) -> None:
    """Copies a file from the store. Raises RunError if it is missing or has changed, OSError if the file system refuses."""
    digest = hashlib.sha256()
    target.parent.mkdir(parents=True, exist_ok=True)
    with store.read(path) as file, target.open("wb") as copy:
        while file is not None and (data := file.read(_PIECE_BYTES)):
            digest.update(data)
            copy.write(data)
        if file is None or digest.hexdigest() != sha256:
            said = "missing" if file is None else "not what was written"
            raise RunError(f"{store.where} is damaged: {path} is {said}: take another backup")
    sync(target)


def end_leases(database: Path) -> None:
    """Ends the leases of members that existed when the backup was made.

    Otherwise a new member would find its name held, for as long as a lease lasts.
    """
    if not database.exists():
        return
    try:
        with contextlib.closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("UPDATE leases SET ended = 1")
    except sqlite3.DatabaseError as error:
        raise RunError(f"the coordinator's state in the backup cannot be used: {error}: take another backup") from None


if __name__ == "__main__":
    run_program(main)
