"""The agent in a run directory: the arguments that choose it, its config and the network of a checkpoint."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from sbrl.config import Config, load
from sbrl.errors import RunError, UsageError, plain
from sbrl.networks.serialization import Weights, decode
from sbrl.runtime.arguments import Parser, seed, whole_number
from sbrl.storage.checkpoints import (
    CorruptCheckpointError,
    find_checkpoint,
    list_checkpoints,
    read_checkpoint_file,
    read_checkpoint_json,
    updates_of,
)
from sbrl.storage.run_directory import RunDirectory


class TrainedAgent(NamedTuple):
    """A run's config and the agent in one of its checkpoints."""

    config: Config
    weights: Weights  # of the acting network, online or target
    updates: int  # gradient updates made by then
    env_steps: int  # agent steps of the run, as far as the learner knew


def agent_arguments(command: str, description: str) -> argparse.ArgumentParser:
    """The arguments of programs that use the agent of a run directory."""
    parser = Parser(prog=f"sbrl {command}", description=description)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="the run directory of `sbrl train`")
    parser.add_argument(
        "--checkpoint",
        type=whole_number(0, 2**63),
        metavar="UPDATES",
        help="the checkpoint taken after so many updates; newest if left out",
    )
    parser.add_argument(
        "--seed", type=seed, metavar="N", help="of games and exploration (default: that of the run's evaluations)"
    )
    return parser


def load_agent(run_directory: RunDirectory, updates: int | None, overrides: Iterable[str] = ()) -> TrainedAgent:
    """Reads the checkpoint of `updates`, or the newest readable one, with a warning for each that cannot be read.

    Args:
        overrides: key=value, applied to the run's config.

    Raises:
        UsageError: no run directory, a config that cannot be read, a bad override.
        RunError: there is no such checkpoint, or none that can be read.
    """
    if not run_directory.config.is_file():
        raise UsageError(f"{run_directory.path} is no run directory: it has no run.yaml; give the --run-dir of `sbrl train`")
    config = load(run_directory.config, overrides=overrides)
    directory = run_directory.learner_checkpoints
    if updates is not None:
        return _read(config, find_checkpoint(directory, updates))
    checkpoints = list_checkpoints(directory)
    if not checkpoints:
        raise RunError(
            f"{run_directory.path} has no checkpoint in {directory}: the learner writes its first one after "
            f"{plain(config.run.checkpoint_interval_seconds)} s of training, and one when it stops"
        )
    for checkpoint in reversed(checkpoints):
        try:
            return _read(config, checkpoint)
        except CorruptCheckpointError as error:
            print(f"sbrl: warning: {error}; trying the one before", file=sys.stderr)
    raise RunError(f"none of the {len(checkpoints)} checkpoints in {directory} can be read")


def _read(config: Config, checkpoint: Path) -> TrainedAgent:
    network = "target" if config.agent.act_with_target else "online"
    try:
        weights = decode(read_checkpoint_file(checkpoint, f"{network}.safetensors"))
        env_steps = int(read_checkpoint_json(checkpoint, "state.json")["counters"]["env_steps"])
    except CorruptCheckpointError:
        raise
    except (RunError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise CorruptCheckpointError(f"checkpoint {checkpoint} holds something else than a learner's state: {error}") from None
    return TrainedAgent(config, weights, updates_of(checkpoint), env_steps)
