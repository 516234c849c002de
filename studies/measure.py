"""Estimates a run's cost on this machine from a short run with the same settings."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from sbrl import config as configs
from sbrl.config import Config
from sbrl.errors import RunError
from sbrl.monitor.summary import read_summary
from sbrl.runtime.stop_signals import StopRequest
from sbrl.storage.atomic import replace_text
from sbrl.storage.run_directory import RunDirectory
from studies.arms import PlannedRun
from studies.pool import Ended, Pool, Task, last_words
from studies.records import settings_of

FIRST_STEPS = 400  # env steps of the first try
ENOUGH_SECONDS = 5.0  # of training, for an estimate
# Keys that hardly affect a run's time. Runs that differ only in these are measured once.
COSTLESS = frozenset(
    {
        *("run.seed", "learner.learning_rate", "learner.adam_beta2", "learner.adam_epsilon", "learner.weight_decay"),
        *(
            "learner.target_update_period",
            "learner.target_update_rate",
            "learner.reset_period",
            "agent.n_step",
            "agent.discount",
        ),
        *("agent.anneal_updates", "agent.epsilon_decay_steps", "agent.epsilon_end", "agent.v_min", "agent.v_max"),
    }
)


class RunCost(NamedTuple):
    """The cost of one run."""

    seconds: float  # wall-clock, with start and evaluation, one run at a time
    core_seconds: float
    bytes: int  # of its run directory, while it runs


class Measurement(NamedTuple):
    """A short run: the time of a step, and of the rest of the run."""

    env_steps: int
    training_seconds: float
    seconds: float  # of the whole command
    core_seconds: float
    bytes: int

    def cost(self, run: PlannedRun) -> RunCost:
        """The cost of a whole run, with the same time per step, and the same time for start and evaluation.

        It overestimates a run that collects longer before its first update than the short run did.
        """
        longer = run.config.run.env_steps / self.env_steps
        training = self.training_seconds * longer
        seconds = training + self.seconds - self.training_seconds
        return RunCost(seconds, self.core_seconds * seconds / self.seconds, self.bytes)


def cost_key(config: Config) -> str:
    """A key that is equal for configs with equally long runs."""
    return json.dumps({key: value for key, value in settings_of(config).items() if key not in COSTLESS}, sort_keys=True)


def measure_all(runs: Iterable[PlannedRun], serial: bool, folder: Path) -> dict[str, Measurement]:
    """A measurement of each kind of run, by cost key.

    Args:
        serial: whether each run is one process.
        folder: for the files of the short runs; emptied before, and deleted after.

    Raises:
        RunError: a short run failed. The message has its error and the run's name.
    """
    kinds: dict[str, PlannedRun] = {}
    for run in runs:
        kinds.setdefault(cost_key(run.config), run)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        return {key: measure(run, serial, folder / str(number)) for number, (key, run) in enumerate(kinds.items())}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(run: PlannedRun, serial: bool, folder: Path) -> Measurement:
    """Measures one kind of run, over as many env steps as ENOUGH_SECONDS take. Raises like `measure_all`."""
    longest = run.config.run.env_steps
    first = _try(run, serial, folder / "first", min(FIRST_STEPS, longest))
    if first.training_seconds >= ENOUGH_SECONDS or first.env_steps == longest:
        return first
    steps = round(FIRST_STEPS * ENOUGH_SECONDS / max(first.training_seconds, 1e-3))
    return _try(run, serial, folder / "second", min(steps, longest))


def _try(run: PlannedRun, serial: bool, folder: Path, env_steps: int) -> Measurement:
    config = run.config
    min_size = max(config.replay.num_shards, min(config.min_replay_size, env_steps // 4))
    short = {"run": {"env_steps": env_steps}, "replay": {"min_size": min_size}}
    folder.mkdir(parents=True)
    replace_text(folder / "config.yaml", configs.dump(configs.build(config.model_dump(mode="json"), short)))
    directory = folder / "run"
    arguments = [
        "train",
        "--config",
        str(folder / "config.yaml"),
        "--run-dir",
        str(directory),
        *(["--serial"] if serial else []),
    ]
    task = Task(run.name, (sys.executable, "-m", "sbrl.cli", *arguments), folder / "log")
    ends: list[Ended] = []
    start = time.monotonic()
    Pool(1, StopRequest()).work_off([task], lambda _task, end: ends.append(end), lambda _tasks: None)
    seconds, (end,) = time.monotonic() - start, ends
    summary = read_summary(RunDirectory(directory).summary)
    if end.code != 0 or not summary.get("complete"):
        raise RunError(f"{run.name} cannot be measured: {last_words(task.log) or f'it ended with exit code {end.code}'}")
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    return Measurement(env_steps, summary["wall_seconds"], seconds, end.core_seconds, size)
