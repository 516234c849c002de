"""Makes a benchmark's training runs, several at a time, each as a process of `sbrl train --serial`.

Each run has a directory of results and, beside it, a log that begins with the command. A complete run that was made by the same
command is not made again, so an interrupted benchmark continues where it was.
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
    cost: float  # approximate seconds on a free core; used only to estimate the time left

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
        """Whether exactly this run is there and complete."""
        if not self.log.is_file() or not read_summary(RunDirectory(self.directory).summary).get("complete"):
            return False
        with self.log.open(encoding="utf-8", errors="replace") as log:
            return log.readline().strip() == f"{COMMAND_MARK}{' '.join(self.command)}"


def run_all(runs: Sequence[BenchRun], jobs: int) -> None:
    """Makes all unfinished runs, `jobs` at a time, and prints progress and the time left.

    Raises:
        RunError: runs failed. The others were made nevertheless.
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
    """Returns of full episodes of a random agent: the baseline for every threshold."""
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
    """The task of a run from its beginning. Deletes the files of an interrupted run."""
    if RunDirectory(run.directory).config.is_file():  # only if it is a run directory, not somebody's other files
        shutil.rmtree(run.directory)
    run.log.unlink(missing_ok=True)
    return Task(run.name, run.command, run.log)


def _say(text: str) -> None:
    print(text, flush=True)
