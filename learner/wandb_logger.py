"""Sends scalars to Weights & Biases, as run.wandb_mode says: uploaded at once, or kept for `wandb sync`.

The package is optional and imported only here. Offline mode sends nothing anywhere.
"""

from __future__ import annotations

import importlib
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from learner.metric_loggers import Sink
from sbrl.config import Config
from sbrl.errors import RunError
from sbrl.storage.atomic import replace_text
from sbrl.storage.run_directory import RunDirectory
from sbrl.telemetry.weights_and_biases import check_wandb

STEP = "env_steps"  # the x axis of every plot
INIT_SECONDS = 60.0
SERVICE_SECONDS = 120.0  # longest start of wandb's service process, on a busy machine
# How long the learner's end waits for uploads at most. What is left stays on disk for `wandb sync`.
FINISH_SECONDS = 30.0


def wandb_sinks(config: Config, directory: RunDirectory) -> list[Sink]:
    """One sink, or none if run.wandb_mode is `disabled`.

    A restarted learner continues the same run on the server. Offline, each start leaves its own folder, all with the same id.

    Raises:
        UsageError: the package is not installed.
        RunError: the server refuses the login or does not answer.
    """
    mode = config.run.wandb_mode
    if mode == "disabled":
        return []
    check_wandb(config.run)
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # otherwise it reports its own failures even in offline mode
    wandb = importlib.import_module("wandb")
    directory.wandb.mkdir(parents=True, exist_ok=True)
    try:
        wandb.setup(wandb.Settings(x_service_wait=SERVICE_SECONDS))
        run = wandb.init(
            project=config.run.wandb_project,
            name=directory.path.resolve().name,
            id=_run_id(directory.wandb / "run_id"),
            mode=mode,
            resume="allow" if mode == "online" else None,
            dir=directory.path,  # wandb makes its folder `wandb` there
            config=config.model_dump(mode="json"),
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=INIT_SECONDS,
                finish_timeout=FINISH_SECONDS,
                # With its own defaults it tries for minutes before init_timeout takes effect.
                x_disable_viewer=True,
                x_graphql_retry_max=2,
                x_graphql_retry_wait_max_seconds=5.0,
                x_graphql_timeout_seconds=10.0,
                # Roles log to files of their own and export their own memory and CPU; a run's commit is in its run.yaml.
                x_disable_stats=True,
                x_disable_machine_info=True,
                disable_git=True,
                disable_code=True,
                save_code=False,
            ),
        )
    except wandb.errors.Error as error:
        first_sentence = str(error).partition(". ")[0].rstrip(".")  # the rest is about wandb's own settings
        raise RunError(
            f"run.wandb_mode={mode}: Weights & Biases says: {' '.join(first_sentence.split())}; log in with `wandb login` or "
            f"WANDB_API_KEY, or set run.wandb_mode=offline and upload later with `wandb sync`"
        ) from None
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP)
    return [WandbSink(run, wandb.teardown)]


class WandbSink:
    """Writes to an open run of Weights & Biases."""

    def __init__(self, run: Any, end_service: Callable[[], None]) -> None:
        """
        Args:
            run: a wandb.Run that belongs to this sink; `close` ends it.
            end_service: ends wandb's service process once it has written everything.
        """
        self._run, self._end_service = run, end_service

    def write(self, scalars: Mapping[str, float], env_steps: int) -> None:
        self._run.log({STEP: env_steps, **scalars})

    def close(self) -> None:
        """Waits until everything is written and, online, uploaded, for at most FINISH_SECONDS."""
        self._run.finish()
        if self._run.offline:  # finish() returns just before the file is complete; online the rest may never be uploaded
            self._end_service()


def _run_id(path: Path) -> str:
    """The id of this run directory, the same since its first start."""
    if not path.is_file():
        replace_text(path, f"{secrets.token_hex(4)}\n")
    return path.read_text(encoding="utf-8").strip()
