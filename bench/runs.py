"""A benchmark's training runs, some at a time, each a process of `sbrl train --serial`; finished ones are kept.

Each run has a directory of results and, beside it, a log whose first line is the command: a run that is complete and was made
by the same command is not made again, so that a benchmark which was interrupted goes on where it was.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sbrl.config import Env
from sbrl.envs.make import make_envs
from sbrl.errors import RunError
from sbrl.monitor.summary import read_summary
from sbrl.runtime.stop_signals import StopRequest
from sbrl.storage.run_directory import RunDirectory
from studies.pool import COMMAND_MARK, Ended, Pool, Task
from studies.progress import StudyProgress


class BenchRun(NamedTuple):
    """One training run of a benchmark."""

    directory: Path
    arguments: tuple[str, ...]  # of `sbrl train --serial`
    cost: float  # seconds on a free core, roughly: for the time left only

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def log(self) -> Path:
        return self.directory.with_suffix(".log")

    @property
    def command(self) -> tuple[str, ...]:
        return (sys.executable, "-m", "sbrl.cli", "train", "--serial", "--run-dir", str(self.directory), *self.arguments)

    def is_finished(self) -> bool:
        """Whether this very run is there, whole."""
        if not self.log.is_file() or not read_summary(RunDirectory(self.directory).summary).get("complete"):
            return False
        with self.log.open(encoding="utf-8", errors="replace") as log:
            return log.readline().strip() == f"{COMMAND_MARK}{' '.join(self.command)}"


def run_all(runs: Sequence[BenchRun], jobs: int) -> None:
    """Makes all runs that are not finished, `jobs` at a time, and says how far they are and how long they will take.

    Raises:
        RunError: runs failed; the others were made nevertheless.
    """
    waiting = {run.name: run for run in runs if not run.is_finished()}
    print(f"{len(runs)} runs, {len(runs) - len(waiting)} of them finished before, {jobs} at a time", flush=True)
    progress = StudyProgress({run.name: run.cost for run in waiting.values()}, len(runs) - len(waiting), _say)
    failed: list[BenchRun] = []

    def ended(task: Task, end: Ended) -> None:
        run = waiting[task.name]
        if end.code != 0 or not run.is_finished():
            failed.append(run)
            _say(f"{run.name} failed with exit code {end.code}: see {run.log}")
        progress.end(run.name, failed=run in failed)

    Pool(jobs, StopRequest()).work_off(
        map(_cleared, waiting.values()), ended, lambda tasks: progress.look({task.name: task.log for task in tasks})
    )
    if failed:
        raise RunError(f"{len(failed)} of {len(runs)} runs failed: {', '.join(str(run.log) for run in failed)}")


def random_returns(env_id: str, episodes: int, seed: int) -> list[float]:
    """Returns of full episodes of an agent that acts at random: the baseline that every threshold is to be seen against."""
    envs = make_envs(Env(id=env_id), 1, seed)
    generator = np.random.default_rng(seed)
    returns: list[float] = []
    try:
        while len(returns) < episodes:
            envs.reset(np.array([True]))
            total, ended = 0.0, False
            while not ended:
                step = envs.step(generator.integers(envs.spec.num_actions, size=1))
                total += float(step.reward[0])
                ended = bool(step.terminated[0] or step.truncated[0])
            returns.append(total)
    finally:
        envs.close()
    return returns


def _cleared(run: BenchRun) -> Task:
    """A run that begins from nothing; what an interrupted one left is deleted."""
    if RunDirectory(run.directory).config.is_file():  # a run of ours, nobody's thesis
        shutil.rmtree(run.directory)
    run.log.unlink(missing_ok=True)
    return Task(run.name, run.command, run.log)


def _say(text: str) -> None:
    print(text, flush=True)
