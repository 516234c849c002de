"""A run's summary.json: what was collected, trained and reached."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from sbrl.config import Config
from sbrl.fleet_watch import total
from sbrl.progress import mean
from sbrl.ratio_books import LOST_WITH_ACTORS, inserted_after_all, samples_due
from sbrl.run_directory import replace_text
from sbrl.v1.fleet_pb2 import GetStatusResponse


def frames_per_step(config: Config) -> int:
    """Emulator frames in one agent step: `env.frame_skip` for ALE games, 1 elsewhere."""
    return config.env.frame_skip if config.env.is_atari else 1


def summarize(config: Config, status: GetStatusResponse, wall_seconds: float, complete: bool) -> dict[str, Any]:
    """The summary of a run.

    Args:
        status: the coordinator's last answer; its totals cover every process the run ever had.
        wall_seconds: of training, over all sessions of the run.
        complete: whether the run reached run.env_steps and trained all its samples.
    """
    env_steps, updates = int(total(status, "actor.env_steps")), int(total(status, "learner.updates"))
    inserted, trained = int(total(status, "replay.transitions_inserted")), int(total(status, "learner.samples_trained"))
    collected, confirmed, dropped = (
        total(status, f"actor.transitions_{name}") for name in ("collected", "inserted", "dropped")
    )
    lost = total(status, f"actor.{LOST_WITH_ACTORS}")
    found = inserted_after_all(collected, confirmed, dropped, lost, inserted)
    after_warm_up = max(0, inserted - config.min_replay_size)
    evaluation = status.last_evaluation if status.HasField("last_evaluation") else None
    return {
        "env_id": config.env.id,
        "seed": config.run.seed,
        "complete": complete,
        "env_steps": env_steps,
        "frames": env_steps * frames_per_step(config),
        "updates": updates,
        "batch_size": config.learner.batch_size,
        "samples_trained": trained,
        "samples_due": samples_due(status),
        "samples_served": int(total(status, "learner.samples_served")),
        "samples_discarded": int(total(status, "learner.samples_discarded")),
        "transitions_collected": int(collected),
        "transitions_confirmed": int(confirmed + found),
        "transitions_inserted": inserted,
        "transitions_dropped": int(dropped - found),
        "transitions_dropped_with_actors": int(lost - found),  # had under way when they were killed, and not inserted
        "samples_per_insert_target": config.samples_per_insert,
        "samples_per_insert_achieved": trained / after_warm_up if after_warm_up else None,
        "updates_per_step_target": config.learner.updates_per_step,
        "updates_per_step_achieved": updates / after_warm_up if after_warm_up else None,
        "env_steps_per_second": env_steps / wall_seconds if wall_seconds > 0 else None,
        "updates_per_second": updates / wall_seconds if wall_seconds > 0 else None,
        "train_episodes": int(status.num_episodes),
        "train_return_mean_100": mean([episode.episode_return for episode in status.recent_episodes]),
        "eval_return_mean": evaluation.return_mean if evaluation else None,
        "eval_return_std": evaluation.return_std if evaluation else None,
        "eval_episodes": evaluation.episodes if evaluation else 0,
        "eval_env_steps": evaluation.env_steps if evaluation else None,
        "wall_seconds": wall_seconds,
    }


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """Writes the summary, all or nothing."""
    replace_text(path, json.dumps(summary, indent=2) + "\n")


def read_summary(path: Path) -> dict[str, Any]:
    """A run's summary; empty where there is none that can be read (the run was killed before its first)."""
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return summary if isinstance(summary, dict) else {}


class RunSoFar(NamedTuple):
    """What the earlier sessions of a run have come to."""

    complete: bool = False
    env_steps: int = 0
    wall_seconds: float = 0.0  # of training


def run_so_far(path: Path) -> RunSoFar:
    """What a run's summary says of it; nothing so far where it says anything else, whoever wrote it."""
    summary = read_summary(path)
    try:
        found = RunSoFar(
            summary.get("complete") is True, int(summary.get("env_steps", 0)), float(summary.get("wall_seconds", 0.0))
        )
    except (ValueError, TypeError, OverflowError):
        return RunSoFar()
    return found if found.env_steps >= 0 and 0 <= found.wall_seconds < math.inf else RunSoFar()
