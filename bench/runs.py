"""A benchmark's training runs: `sbrl train --serial` in processes of their own, some at a time; finished ones are kept.

Each run has a directory of results and, beside it, a log whose first line is the command: a run that is complete and was made
by the same command is not made again, so that a benchmark which was interrupted goes on where it was.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sbrl.config import Env
from sbrl.envs.make import make_envs
from sbrl.errors import RunError
from sbrl.readable import duration
from sbrl.run_directory import RunDirectory
from sbrl.summary import read_summary
from sbrl.tether import PARENT_VARIABLE

LOOK_SECONDS = 0.5
LINE_SECONDS = 30.0
_STEPS = re.compile(r"^([\d,]+)/([\d,]+) steps", re.MULTILINE)  # in the lines of sbrl.view.PlainView


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
    def command(self) -> list[str]:
        return ["sbrl", "train", "--serial", "--run-dir", str(self.directory), *self.arguments]

    def is_finished(self) -> bool:
        """Whether this very run is there, whole."""
        if not self.log.is_file() or not read_summary(RunDirectory(self.directory).summary).get("complete"):
            return False
        with self.log.open(encoding="utf-8", errors="replace") as log:
            return log.readline().strip() == " ".join(self.command)

    def share_done(self) -> float:
        """How much of its steps the log says is collected, 0 to 1."""
        steps = _STEPS.findall(self.log.read_text(encoding="utf-8", errors="replace")) if self.log.is_file() else []
        done, total = (int(number.replace(",", "")) for number in steps[-1]) if steps else (0, 1)
        return done / total


def run_all(runs: Sequence[BenchRun], jobs: int) -> None:
    """Makes all runs that are not finished, `jobs` at a time, and says how far they are and how long they will take.

    Raises:
        RunError: runs failed; the others were made nevertheless.
    """
    waiting = [run for run in runs if not run.is_finished()]
    print(f"{len(runs)} runs, {len(runs) - len(waiting)} of them finished before, {jobs} at a time", flush=True)
    progress, failed = _Progress(waiting), []
    processes: dict[BenchRun, subprocess.Popen[bytes]] = {}
    try:
        while waiting or processes:
            while waiting and len(processes) < jobs:
                run = waiting.pop(0)
                processes[run] = _start(run)
            time.sleep(LOOK_SECONDS)
            for run in [run for run, process in processes.items() if process.poll() is not None]:
                code = processes.pop(run).returncode
                progress.end(run)
                if code != 0 or not run.is_finished():
                    failed.append(run)
                    print(f"{run.name} failed with exit code {code}: see {run.log}", flush=True)
                else:
                    print(f"{run.name} is done. {progress.line(processes)}", flush=True)
            progress.show(processes)
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.wait(60)
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


class _Progress:
    """How far the runs that this call makes are, by their costs."""

    def __init__(self, runs: Sequence[BenchRun]) -> None:
        self._start = self._last_line = time.monotonic()
        self._total, self._ended = sum(run.cost for run in runs), 0.0
        self._counts = [0, len(runs)]

    def end(self, run: BenchRun) -> None:
        self._ended += run.cost
        self._counts[0] += 1

    def show(self, running: Sequence[BenchRun] | dict[BenchRun, subprocess.Popen[bytes]]) -> None:
        """A line now and then."""
        if running and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            print(self.line(running), flush=True)

    def line(self, running: Sequence[BenchRun] | dict[BenchRun, subprocess.Popen[bytes]]) -> str:
        shares = {run: run.share_done() for run in running}
        done = self._ended + sum(run.cost * share for run, share in shares.items())
        elapsed = time.monotonic() - self._start
        left = elapsed * (self._total - done) / done if done > 0 else None
        at_work = ", ".join(f"{run.name} {share:.0%}" for run, share in shares.items()) or "nothing at work"
        return f"{self._counts[0]}/{self._counts[1]} done, {duration(elapsed)} so far, ETA {duration(left)}: {at_work}"


def _start(run: BenchRun) -> subprocess.Popen[bytes]:
    """Starts a run from nothing; what an interrupted one left is deleted."""
    if RunDirectory(run.directory).config.is_file():  # a run of ours, nobody's thesis
        shutil.rmtree(run.directory)
    run.directory.parent.mkdir(parents=True, exist_ok=True)
    with run.log.open("wb") as log:
        log.write(f"{' '.join(run.command)}\n".encode())
        log.flush()
        return subprocess.Popen(
            [sys.executable, "-m", "sbrl.cli", *run.command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
        )
