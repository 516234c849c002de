"""The scalars that a run logs against agent steps, and their names. Sinks write them where people look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from learner.algorithm.diagnostics import Readings
from learner.algorithm.schedules import Horizon
from sbrl.v1.fleet_pb2 import GetStatusResponse


def diagnostic_scalars(readings: Readings) -> dict[str, float]:
    """One measurement by name. The TD error on the newest transitions is given as its excess over the uniform one."""
    errors = {f"td_error_{name}": value for name, value in readings.td_errors.items()}
    if "td_error_newest" in errors:
        errors["td_error_newest_excess"] = errors.pop("td_error_newest") - errors["td_error_uniform"]
    return {
        "gradient_noise_scale": readings.gradient.noise_scale,
        "gradient_signal": readings.gradient.signal,
        "gradient_variance": readings.gradient.noise,
        "policy_churn_ratio": readings.policy_churn_ratio,
        "dormant_units_ratio": readings.dormant_units_ratio,
        "feature_rank": readings.feature_rank,
        "parameter_norm": readings.parameter_norm,
        **errors,
    }


class Sink(Protocol):
    """Where scalars go."""

    def write(self, scalars: Mapping[str, float], env_steps: int) -> None:
        """Args: scalars: by name, group/thing. env_steps: of the whole run; may be lower than in the last call."""
        ...

    def close(self) -> None: ...


class MetricLogger:
    """Writes the same scalars to every sink."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks
        self._num_episodes = 0
        self._evaluated_version = 0

    def learner(
        self,
        *,
        env_steps: int,
        loss: float,
        spr_loss: float,
        mean_q: float,
        td_error: float,
        gradient_norm: float,
        updates_per_second: float,
        samples_per_insert: float,
        updates: int,
        resets: int,
        horizon: Horizon,
    ) -> None:
        """Writes the learner's own measurements."""
        scalars = {
            "loss": loss,
            "spr_loss": spr_loss,
            "mean_q": mean_q,
            "td_error": td_error,
            "gradient_norm": gradient_norm,
            "updates_per_second": updates_per_second,
            "samples_per_insert": samples_per_insert,
            "updates": updates,
            "resets": resets,
            "n_step": horizon.n_step,
            "discount": horizon.discount,
        }
        self._write({f"learner/{name}": value for name, value in scalars.items()}, env_steps)

    def diagnostics(self, readings: Readings, env_steps: int) -> None:
        """Writes one measurement of the diagnostics."""
        self._write({f"diagnostics/{name}": value for name, value in diagnostic_scalars(readings).items()}, env_steps)

    def returns(self, status: GetStatusResponse) -> None:
        """Writes training and evaluation returns if there are new ones."""
        if status.num_episodes > self._num_episodes:
            self._num_episodes = status.num_episodes
            recent = [episode.episode_return for episode in status.recent_episodes]
            self._write({"train/return_mean_100": float(np.mean(recent))}, status.recent_episodes[-1].env_steps)
        if status.HasField("last_evaluation") and status.last_evaluation.weights_version > self._evaluated_version:
            evaluation = status.last_evaluation
            self._evaluated_version = evaluation.weights_version
            self._write({"evaluation/return_mean": evaluation.return_mean}, evaluation.env_steps)

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()

    def _write(self, scalars: Mapping[str, float], env_steps: int) -> None:
        for sink in self._sinks:
            sink.write(scalars, env_steps)
