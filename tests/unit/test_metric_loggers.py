"""Scalars logged against agent steps, as read back from the files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from learner.algorithm.diagnostics import Readings
from learner.algorithm.measures import GradientMoments
from learner.algorithm.schedules import Horizon
from learner.metric_loggers import MetricLogger
from learner.tensorboard import TensorBoard
from sbrl.v1.episodes_pb2 import Episode, Evaluation
from sbrl.v1.fleet_pb2 import GetStatusResponse

ERRORS = {"newest": 0.75, "uniform": 0.5, "held_out": 1.25}
READINGS = Readings(5000, GradientMoments(2.0, 600.0), 0.05, 0.25, 7, 12.5, ERRORS)


class Recorder:
    """Remembers what it was given."""

    def __init__(self) -> None:
        self.written: list[tuple[str, float, int]] = []
        self.closed = False

    def write(self, scalars: Mapping[str, float], env_steps: int) -> None:
        self.written += [(name, value, env_steps) for name, value in scalars.items()]

    def close(self) -> None:
        self.closed = True


def report_once(metric_logger: MetricLogger) -> None:
    """Everything there is, once."""
    metric_logger.learner(
        env_steps=100,
        loss=0.5,
        spr_loss=0.0,
        mean_q=1.5,
        td_error=0.25,
        gradient_norm=2.0,
        updates_per_second=30.0,
        samples_per_insert=2.0,
        updates=25,
        resets=0,
        horizon=Horizon(3, 0.99),
    )
    metric_logger.diagnostics(READINGS, 110)
    episodes = [Episode(episode_return=value, env_steps=steps) for value, steps in ((1.0, 80), (3.0, 90))]
    evaluation = Evaluation(weights_version=2, return_mean=4.0, env_steps=60)
    status = GetStatusResponse(num_episodes=2, recent_episodes=episodes, last_evaluation=evaluation)
    metric_logger.returns(status)
    metric_logger.returns(status)  # nothing new


EXPECTED = {
    "learner/loss": (0.5, 100),
    "learner/spr_loss": (0.0, 100),
    "learner/mean_q": (1.5, 100),
    "learner/td_error": (0.25, 100),
    "learner/gradient_norm": (2.0, 100),
    "learner/updates_per_second": (30.0, 100),
    "learner/samples_per_insert": (2.0, 100),
    "learner/updates": (25.0, 100),
    "learner/resets": (0.0, 100),
    "learner/n_step": (3.0, 100),
    "learner/discount": (pytest.approx(0.99), 100),
    "diagnostics/gradient_noise_scale": (300.0, 110),
    "diagnostics/gradient_signal": (2.0, 110),
    "diagnostics/gradient_variance": (600.0, 110),
    "diagnostics/policy_churn_ratio": (pytest.approx(0.05), 110),
    "diagnostics/dormant_units_ratio": (0.25, 110),
    "diagnostics/feature_rank": (7.0, 110),
    "diagnostics/parameter_norm": (12.5, 110),
    "diagnostics/td_error_newest_excess": (0.25, 110),
    "diagnostics/td_error_uniform": (0.5, 110),
    "diagnostics/td_error_held_out": (1.25, 110),
    "train/return_mean_100": (2.0, 90),
    "evaluation/return_mean": (4.0, 60),
}


def test_every_sink_is_given_the_same_and_closed() -> None:
    sinks = [Recorder(), Recorder()]
    metric_logger = MetricLogger(sinks)
    report_once(metric_logger)
    metric_logger.close()
    for sink in sinks:
        assert len(sink.written) == len(EXPECTED)
        assert {name: (value, env_steps) for name, value, env_steps in sink.written} == EXPECTED
        assert sink.closed


def test_tensorboard_finds_everything_at_its_step(tmp_path: Path) -> None:
    metric_logger = MetricLogger([TensorBoard(tmp_path)])
    report_once(metric_logger)
    metric_logger.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    found = {tag: [(event.value, event.step) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert found == {name: [expected] for name, expected in EXPECTED.items()}
