"""SBRL as a library: the functions of `import sbrl`. Each works like a command, with its checks and messages."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbrl import config as configs
from sbrl.config import Config
from sbrl.errors import RunError, UsageError

if TYPE_CHECKING:
    from sbrl.networks.policy import EpsilonGreedyPolicy


def load_config(preset: str | None = None, *overrides: str, file: str | Path | None = None) -> Config:
    """The validated config from a preset, a file and overrides; later ones win.

    Args:
        preset: a name from `sbrl presets`; None: the default, small-batch.
        overrides: single settings, as on the command line: "learner.batch_size=32".
        file: a YAML file with a config, or a part of one.

    Raises:
        UsageError: an unknown preset or key, or a value that breaks a rule. The message names value, rule and remedy.
    """
    return configs.load(None if file is None else Path(file), preset=preset, overrides=overrides)


def train(
    config: Config, run_dir: str | Path, *, serial: bool = False, resume: bool = False, quiet: bool = False
) -> dict[str, Any]:
    """Trains like `sbrl train` and returns the content of the run's summary.json.

    All roles run as separate processes, which end with the call. Ctrl-C stops them cleanly.

    Args:
        config: the config of a new run. A resumed run keeps its own.
        run_dir: a new folder, or with `resume` the folder of the run.
        serial: train in one process, bit-reproducible from run.seed.
        resume: resume the run in `run_dir`.
        quiet: show no progress.

    Raises:
        UsageError: the request is wrong.
        RunError: the run failed; the message names the reason.
    """
    directory = Path(run_dir)
    arguments = ["train", "--run-dir", str(directory), *(["--serial"] if serial else []), *(["--resume"] if resume else [])]
    with tempfile.TemporaryDirectory(prefix="sbrl-") as folder:
        if not resume:
            file = Path(folder) / "config.yaml"
            file.write_text(configs.dump(config), encoding="utf-8")
            arguments += ["--config", str(file)]
        _run(arguments, quiet)
    summary: dict[str, Any] = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    return summary


def evaluate(
    run_dir: str | Path, episodes: int | None = None, *, updates: int | None = None, seed: int | None = None
) -> dict[str, Any]:
    """Plays full episodes with a run's checkpoint, like `sbrl eval`: `evaluator.epsilon` (0.001), unclipped returns.

    Args:
        run_dir: the folder of a run that has saved a checkpoint.
        episodes: number of episodes; None: the run's evaluator.episodes.
        updates: use the checkpoint after this many updates; None: the newest.
        seed: of games and exploration; None: the seed of the run's evaluations.

    Returns:
        return_mean, return_std, return_min, return_max, episodes, length_mean and so on.

    Raises:
        UsageError, RunError: no such run or checkpoint.
    """
    arguments = ["eval", str(run_dir)]
    for option, value in (("--episodes", episodes), ("--checkpoint", updates), ("--seed", seed)):
        arguments += [] if value is None else [option, str(value)]
    with tempfile.TemporaryDirectory(prefix="sbrl-") as folder:
        file = Path(folder) / "evaluation.json"
        _run([*arguments, "--json", str(file)], quiet=True)
        result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return result


def load_policy(run_dir: str | Path, *, updates: int | None = None, seed: int = 0) -> EpsilonGreedyPolicy:
    """The agent of a run's checkpoint. Use `policy.act(observations, epsilon)` or `policy.q_values(observations)`.

    Args:
        run_dir: the folder of a run that has saved a checkpoint.
        updates: use the checkpoint after this many updates; None: the newest that can be read.
        seed: of its random actions.

    Raises:
        UsageError, RunError: no such run or checkpoint, or an environment that cannot be made.
    """
    from sbrl.envs.make import make_spec
    from sbrl.networks.build import build_network
    from sbrl.networks.policy import EpsilonGreedyPolicy
    from sbrl.storage.run_directory import RunDirectory

    agent = _of("services.evaluator.agent", "load_agent")(RunDirectory(Path(run_dir)), updates)
    spec = make_spec(agent.config.env)
    policy = EpsilonGreedyPolicy(build_network(agent.config.agent, spec), spec.num_actions, seed)
    policy.load(agent.weights)
    return policy


def make_update(config: Config) -> Any:
    """The learner's update for the config's environment: `learner.algorithm.update.UpdateStep`.

    `step.update(batch)` takes a `learner.records.Batch` and returns loss, TD errors and priorities.

    Raises:
        UsageError: an absent device, an environment that cannot be made, or a network that does not fit its observations.
    """
    from sbrl.envs.make import make_spec

    return _of("learner.algorithm.update", "make_update_step")(config, make_spec(config.env))


def _of(module: str, name: str) -> Callable[..., Any]:
    # Imported by name, as the command line starts its programs: sbrl itself imports no role.
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def _run(arguments: list[str], quiet: bool) -> None:
    """Runs one command of `sbrl` in a separate process.

    Raises:
        UsageError, RunError: with its last line on standard error as the message.
        KeyboardInterrupt: it was interrupted.
    """
    command = [sys.executable, "-P", "-m", "sbrl.cli", *arguments]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL if quiet else None, stderr=errors if quiet else None)
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()  # it got the signal, too, and is stopping
            raise
        if code == 0:
            return
        errors.seek(0)
        said = errors.read().strip().splitlines()
    if code == 130:
        raise KeyboardInterrupt
    message = said[-1].removeprefix("sbrl: ") if said else f"`sbrl {arguments[0]}` ended with exit code {code}: see above"
    raise (UsageError if code == 2 else RunError)(message)
