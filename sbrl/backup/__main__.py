"""Copies a run's files to a folder or a bucket while the run continues: `sbrl backup RUN_DIR DEST`.

The order is learner, shards, coordinator. A run that continues from the backup repeats the learner's last updates with the
later steps that the shards hold. The coordinator never hands out a number (incarnation, term, version) twice.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from sbrl.backup.catalog import WHOLE, finish, has_part, open_store, prune, write_part
from sbrl.backup.copies import DATABASE, copy_part
from sbrl.backup.rules import HEARD_SECONDS, KEEP, NAME, PART, name_of_job, part_of
from sbrl.backup.stores import Store
from sbrl.errors import RunError, UsageError
from sbrl.runtime.arguments import Parser, whole_number
from sbrl.runtime.program import run_program
from sbrl.storage.metadata import run_id_of
from sbrl.storage.run_directory import RunDirectory

POLL_SECONDS = 2.0


def main(argv: Sequence[str]) -> None:
    arguments = make_parser().parse_args(argv)
    run, store = RunDirectory(arguments.run_dir), open_store(arguments.to)
    run_id = arguments.run_id or run_id_of(run.config)
    name = arguments.name or name_of_job(arguments.job, time.time())
    if not NAME.fullmatch(name):
        raise UsageError(f"--name {name} is no name for a backup: it has letters, digits and - _ . and 63 characters at most")
    if arguments.part is None:
        say(store, name, backup_run(run, store, name, run_id))
        prune(store, run_id, arguments.keep)
        return
    if arguments.after:
        wait_for(store, name, arguments.after, arguments.timeout_seconds)
    say(store, name, backup_part(run, store, name, arguments.part))
    if arguments.after:
        if arguments.config is not None:
            say(store, name, backup_config(arguments.config, store, name))
        parts = [*arguments.after, arguments.part, *(["run"] if arguments.config is not None else [])]
        finish(store, name, run_id, parts, time.time())
        print(f"{store.where}/{name} is whole")
        prune(store, run_id, arguments.keep)


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="sbrl backup", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="the run's directory, or what a pod has of it")
    parser.add_argument("to", metavar="DEST", help="a folder, or s3://BUCKET/PREFIX with keys from the environment")
    parser.add_argument(
        "--keep", type=whole_number(1, 10_000), default=KEEP, metavar="N", help="the run's backups kept (default: %(default)s)"
    )
    parser.add_argument("--name", metavar="NAME", help="of the backup (default: the time)")
    in_pods = parser.add_argument_group("for pods, each of which has one role's volume")
    in_pods.add_argument("--part", type=part_of, metavar="PART", help="this part alone: learner, coordinator, replay-0, ...")
    in_pods.add_argument(
        "--after", type=parts_of, metavar="PARTS", help="wait for these parts, and finish the backup: the coordinator's does"
    )
    in_pods.add_argument("--config", type=Path, metavar="FILE", help="with --after: the run's config, which is kept, too")
    in_pods.add_argument("--timeout-seconds", type=whole_number(0, 10**6), default=3600, metavar="N", help="to wait so long")
    in_pods.add_argument("--job", default="", metavar="JOB", help="names the backup by the end of its Job's name")
    in_pods.add_argument("--run-id", default="", metavar="ID", help="whose backups --keep counts (default: as run.yaml says)")
    return parser


def parts_of(text: str) -> list[str]:
    """Several parts, separated by commas. Raises argparse.ArgumentTypeError as `part_of`."""
    return [part_of(word) for word in text.split(",")]


def backup_run(run: RunDirectory, store: Store, name: str, run_id: str) -> str:
    """Backs up all of a run on this machine, or nothing. Returns what was copied.

    Raises:
        UsageError: there is no run, or there is already a backup of this name.
        RunError: it cannot be copied or written; the written part is removed.
    """
    if not run.config.is_file() or not (run.coordinator / DATABASE).is_file():
        raise UsageError(f"{run.path} holds no run: it has no run.yaml, or no coordinator/{DATABASE} beside it")
    if name in store.folders():
        raise UsageError(f"{store.where} has a backup {name} already: choose another --name")
    shards = sorted(path.name for path in run.checkpoints.glob("replay-*") if PART.fullmatch(path.name))
    # The actors' counters come after the shards, and before the coordinator, which knows whose counters they are.
    parts = ["learner", *shards, "run", "coordinator"]
    said = []
    try:
        for part in parts:
            if part == "coordinator" and run.is_in_use():
                time.sleep(HEARD_SECONDS)
            said.append(backup_part(run, store, name, part))
        finish(store, name, run_id, parts, time.time())
    except BaseException:
        with contextlib.suppress(RunError):  # report the first error
            store.remove(name)
        raise
    return ", ".join(filter(None, said))


def backup_part(run: RunDirectory, store: Store, name: str, part: str) -> str:
    """Backs up one part. Returns what was copied.

    Raises:
        UsageError: there is already a complete backup of this name.
        RunError: it cannot be copied or written.
    """
    with store.read(f"{name}/{WHOLE}") as file:
        if file is not None:
            raise UsageError(f"{store.where} has a backup {name} already: choose another --name, or end of the Job's name")
    with contextlib.ExitStack() as closing, tempfile.TemporaryDirectory() as scratch:
        copy = copy_part(run, part, Path(scratch), closing)
        size = write_part(store, name, part, copy)
    return f"{part}: {copy.what}{', ' if copy.what else ''}{size / 1e6:.1f} MB"


def backup_config(config: Path, store: Store, name: str) -> str:
    """Backs up the run's config, the only file besides the roles' parts."""
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(Path(folder))
        run.config.write_bytes(config.read_bytes())
        return backup_part(run, store, name, "run")


def wait_for(store: Store, name: str, parts: Sequence[str], seconds: float) -> None:
    """Waits until other pods have written these parts, and the coordinator has heard of all steps in them.

    Raises:
        RunError: this takes longer than `seconds`.
    """
    deadline = time.monotonic() + seconds
    while missing := [part for part in parts if not has_part(store, name, part)]:
        if time.monotonic() > deadline:
            raise RunError(
                f"{store.where}/{name} has no {', '.join(missing)} after {seconds:g} s: the logs of their pods say why"
            )
        time.sleep(POLL_SECONDS)  # there is no event for the writes of other pods
    time.sleep(HEARD_SECONDS)


def say(store: Store, name: str, said: str) -> None:
    print(f"{store.where}/{name}: {said}", flush=True)


if __name__ == "__main__":
    run_program(main)
