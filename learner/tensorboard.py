"""TensorBoard logs, against agent steps of the whole run."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from learner.schedules import Horizon
from sbrl.v1.fleet_pb2 import GetStatusResponse


class TensorBoard:
    """Writes scalars to one event file in `directory`."""

    def __init__(self, directory: Path) -> None:
        logging.getLogger("tensorboard").setLevel(logging.ERROR)
        self._writer = SummaryWriter(log_dir=str(directory))
        self._num_episodes = 0
        self._evaluated_version = 0

    def learner(
        self,
        *,
        env_steps: int,
        loss: float,
        spr_loss: float,
        mean_q: float,
        gradient_norm: float,
        updates_per_second: float,
        samples_per_insert: float,
        updates: int,
        resets: int,
        horizon: Horizon,
    ) -> None:
        """What the learner measures of itself."""
        add = self._writer.add_scalar
        add("learner/loss", loss, env_steps)
        add("learner/spr_loss", spr_loss, env_steps)
        add("learner/mean_q", mean_q, env_steps)
        add("learner/gradient_norm", gradient_norm, env_steps)
        add("learner/updates_per_second", updates_per_second, env_steps)
        add("learner/samples_per_insert", samples_per_insert, env_steps)
        add("learner/updates", updates, env_steps)
        add("learner/resets", resets, env_steps)
        add("learner/n_step", horizon.n_step, env_steps)
        add("learner/discount", horizon.discount, env_steps)

    def returns(self, status: GetStatusResponse) -> None:
        """Training and evaluation returns, when there are new ones."""
        if status.num_episodes > self._num_episodes:
            self._num_episodes = status.num_episodes
            recent = [episode.episode_return for episode in status.recent_episodes]
            self._writer.add_scalar("train/return_mean_100", float(np.mean(recent)), status.recent_episodes[-1].env_steps)
        if status.HasField("last_evaluation") and status.last_evaluation.weights_version > self._evaluated_version:
            evaluation = status.last_evaluation
            self._evaluated_version = evaluation.weights_version
            self._writer.add_scalar("evaluation/return_mean", evaluation.return_mean, evaluation.env_steps)

    def close(self) -> None:
        self._writer.close()
