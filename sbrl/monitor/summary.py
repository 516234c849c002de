"""A run's summary.json: steps collected, samples trained, and returns reached."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from sbrl.config import Config
from sbrl.coordination.fleet_watch import total
from sbrl.monitor.progress import mean
from sbrl.monitor.run_status import RunStatus
from sbrl.storage.atomic import replace_text
from sbrl.v1.fleet_pb2 import GetStatusResponse

LEAST_RECEIVED = 0.5  # share of the steps collected: with less, the run did not train as configured


def summarize(config: Config, status: GetStatusResponse, wall_seconds: float, complete: bool) -> dict[str, Any]:
    """The summary of a run.

    Args:
        status: the coordinator's last answer; its totals cover all processes of the run so far.
        wall_seconds: seconds of training, over all sessions of the run.
        complete: whether the run reached run.env_steps and trained all its samples.
    """
    run = RunStatus.of(status, config.min_replay_size)
    evaluation = status.last_evaluation if status.HasField("last_evaluation") else None
    return {
        "env_id": config.env.id,
        "seed": config.run.seed,
        "complete": complete,
        "env_steps": run.env_steps,
        "frames": run.env_steps * config.env.frames_per_step,
        "updates": run.updates,
        "batch_size": config.learner.batch_size,
        "samples_trained": run.samples_trained,
        "samples_due": run.samples_due,
        "transitions_received": run.received,
        "transitions_lost": run.lost,
        "transitions_in_flight": run.in_flight,
        "transitions_duplicate": run.duplicates,
        "sampling": run.sampling,
        "samples_per_insert_target": config.samples_per_insert,
        "samples_per_insert_achieved": run.samples_per_insert,
        "updates_per_step_target": config.learner.updates_per_step,
        "updates_per_step_achieved": run.updates_per_step,
        "env_steps_per_second": run.env_steps / wall_seconds if wall_seconds > 0 else None,
        "updates_per_second": run.updates / wall_seconds if wall_seconds > 0 else None,
        "train_episodes": int(status.num_episodes),
        "train_episodes_cut": int(total(status, "actor.episodes_cut")),  # at a bad value of the environment
        "train_episodes_dropped": int(total(status, "actor.episodes_dropped")),  # not in the log
        "train_return_mean_100": mean([episode.episode_return for episode in status.recent_episodes]),
        "eval_return_mean": evaluation.return_mean if evaluation else None,
        "eval_return_std": evaluation.return_std if evaluation else None,
        "eval_episodes": evaluation.episodes if evaluation else 0,
        "eval_env_steps": evaluation.env_steps if evaluation else None,
        # Transfers between processes; repeated ones count again.
        "segments_moved": int(total(status, "replay.segments_inserted") + total(status, "replay.segments_served")),
        "weights_moved": int(total(status, "learner.weights_published") + total(status, "actor.weights_fetched")),
        "wall_seconds": wall_seconds,
    }


def shortfall(config: Config, status: GetStatusResponse) -> str:
    """The missing part of a run whose learner has ended; empty if it is complete."""
    run = RunStatus.of(status, config.min_replay_size)
    if run.env_steps < config.run.env_steps:
        return f"{run.env_steps:,} of {config.run.env_steps:,} env steps are collected"
    if run.received < LEAST_RECEIVED * run.env_steps or not run.updates:
        return missing_samples(config.samples_per_insert * (run.env_steps - config.min_replay_size), run.samples_trained)
    if falls_short(run.samples_due, run.samples_trained, config.learner.batch_size):
        return missing_samples(run.samples_due, run.samples_trained)
    return ""


def falls_short(due: float, trained: float, batch_size: int) -> bool:
    """Whether a run that ends like this has missed its ratio. A difference of up to one batch does not count."""
    return due - trained > batch_size


def missing_samples(due: float, trained: float) -> str:
    """The message about such a run."""
    return (
        f"all env steps are collected, but only {trained:,.0f} of the {due:,.0f} samples that they are worth were trained on, "
        f"and the shards hold nothing more to train on: their data or the learner's checkpoints are lost; put back "
        f"checkpoints/, or go on with a larger run.env_steps"
    )


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """Writes the summary, all or nothing."""
    replace_text(path, json.dumps(summary, indent=2) + "\n")


def read_summary(path: Path) -> dict[str, Any]:
    """A run's summary; empty if there is no readable one (for example, the run was killed before its first)."""
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return summary if isinstance(summary, dict) else {}


class RunSoFar(NamedTuple):
    """The results of a run's earlier sessions."""

    complete: bool = False
    env_steps: int = 0
    wall_seconds: float = 0.0  # of training
    samples_due: float = 0.0
    samples_trained: float = 0.0


def run_so_far(path: Path) -> RunSoFar:
    """The results in a run's summary. If the summary is not valid, the defaults."""
    summary = read_summary(path)
    try:
        found = RunSoFar(
            summary.get("complete") is True,
            int(summary.get("env_steps", 0)),
            *(float(summary.get(name, 0.0)) for name in ("wall_seconds", "samples_due", "samples_trained")),
        )
    except (ValueError, TypeError, OverflowError):
        return RunSoFar()
    return found if all(0 <= number < math.inf for number in found[1:]) else RunSoFar()
