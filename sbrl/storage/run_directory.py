"""The paths of a run's files in its directory. Other tools read them; docs/run-directory.md documents them."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from sbrl.errors import RunError, UsageError

LOCK = ".lock"
LOCK_POLL_SECONDS = 0.2
LOCK_SECONDS = 660.0  # a shard may take ten minutes for its last checkpoint


class RunDirectory:
    """Paths in a run directory. `lock` makes missing folders."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "run.yaml"
        self.summary = path / "summary.json"
        self.episodes = path / "episodes.csv"
        self.evaluations = path / "evaluations.csv"
        self.learning_curve = path / "learning_curve.png"
        self.video = path / "video.gif"
        self.tensorboard = path / "tensorboard"
        self.wandb = path / "wandb"
        self.checkpoints = path / "checkpoints"
        self.learner_checkpoints = self.checkpoints / "learner"
        self.coordinator = path / "coordinator"
        self.logs = path / "logs"
        self.prometheus = path / "prometheus"

    def replay_checkpoints(self, shard: int) -> Path:
        return self.checkpoints / f"replay-{shard}"

    def log(self, name: str) -> Path:
        """The log file of the process called `name`."""
        return self.logs / f"{name}.log"

    def check_new(self) -> None:
        """
        Raises:
            UsageError: the directory is not empty.
            RunError: the path cannot be read.
        """
        try:
            if self.path.exists() and any(entry.name != LOCK for entry in self.path.iterdir()):
                raise UsageError(
                    f"run directory {self.path} is not empty: go on with it by --resume, or choose another with --run-dir"
                )
        except OSError as error:
            raise RunError(f"cannot use {self.path} as run directory: {error.strerror}") from None

    def check_resumable(self) -> None:
        """
        Raises:
            UsageError: there is no run here, or its coordinator's state is missing.
        """
        if not self.config.is_file():
            raise UsageError(f"{self.path} holds no run to resume: it has no run.yaml; leave out --resume to start one")
        if _has_entries(self.checkpoints) and not _has_entries(self.coordinator):
            raise UsageError(
                f"{self.coordinator} is missing or empty, but there are checkpoints beside it: the run's counters and the "
                f"accounts of its ratio were there, and nothing can go on without them; put it back, or start a new run in "
                f"another directory"
            )

    @contextmanager
    def lock(self) -> Iterator[int]:
        """Makes the directory and locks it for one run at a time. Yields the lock's file descriptor.

        The lock ends with the last process that has the descriptor, however it ends. The roles inherit it, so it outlives a
        killed launcher as long as they drain. This method waits for that and reports it on standard error.

        Raises:
            RunError: another process holds it, or it cannot be written.
        """
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise RunError(f"cannot write run directory {self.path}: {error.strerror}") from None
        try:
            deadline = None
            while not _try_to_lock(descriptor):
                holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
                if not holder.isdecimal() or _is_running(int(holder)):
                    raise RunError(
                        f"run directory {self.path} is in use by process {holder}: stop it, or choose another directory"
                    )
                if deadline is None:
                    deadline = time.monotonic() + LOCK_SECONDS
                    waiting = f"process {holder}, which ran this before, was killed: waiting until its roles have ended"
                    print(waiting, file=sys.stderr, flush=True)
                elif time.monotonic() > deadline:
                    raise RunError(
                        f"roles of process {holder}, which was killed, still run in {self.path} after {LOCK_SECONDS:.0f} s: "
                        f"kill the processes that have --run-dir {self.path}"
                    )
                time.sleep(LOCK_POLL_SECONDS)  # there is no event to wait for, and another waiting process may get it
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield descriptor
        finally:
            os.close(descriptor)

    def is_in_use(self) -> bool:
        """Whether the last launcher that locked it is running. Only reads: trying the lock could block a starting run."""
        try:
            holder = (self.path / LOCK).read_text(encoding="utf-8", errors="replace").strip()
        except FileNotFoundError:
            return False
        return holder.isdecimal() and _is_running(int(holder))


def _try_to_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_running(process_id: int) -> bool:
    try:
        return bool(psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def any_checkpoint(directory: Path) -> bool:
    """Whether a role's folder of checkpoints holds one, complete or not."""
    return directory.is_dir() and any(entry.is_dir() for entry in directory.iterdir())


def _has_entries(directory: Path) -> bool:
    return directory.is_dir() and any(directory.iterdir())
