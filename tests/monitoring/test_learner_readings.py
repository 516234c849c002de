"""The learner's metrics of its own work: phases, ages of samples, and a loss that is not finite."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from torch import Tensor

from learner import sample_age
from learner.algorithm.update import UpdateStep, make_update_step
from learner.batches import MemoryBatches
from learner.block import make_updates
from learner.intake import Intake
from learner.loop import Hook, Round, Training, train
from learner.metric_loggers import MetricLogger
from learner.publication import Publications
from learner.ratio import Ratio, RatioSettings
from learner.replay import Replay
from learner.reporting import Reporter
from learner.sample_age import SampleAges
from sbrl.config import build
from sbrl.coordination.fleet import Instructions, RunState
from sbrl.envs.spec import EnvSpec
from sbrl.errors import RunError
from sbrl.networks.serialization import all_finite
from sbrl.replay.receipts import Receipts
from sbrl.telemetry.metrics import LEARNER_PHASES, LearnerMetrics
from sbrl.v1.fleet_pb2 import GetStatusResponse
from tests.memories import make_memory, numbered, shape_of

SPEC = EnvSpec(32, (2,), np.dtype(np.float32), 1, "vector", False)
SHAPE = shape_of()  # segments of four steps
CONFIG = build(
    {
        "agent": {"hidden_size": 8, "num_quantiles": 4, "n_step": 1},
        "learner": {"publish_period": 2, "batch_size": 2, "updates_per_step": 0.5},
        "replay": {"min_size": 2, "num_shards": 2, "capacity": 1000},
    }
)


class Learner(NamedTuple):
    """A training loop, and the parts that tests look at."""

    training: Training
    hooks: tuple[Hook, ...]
    stop: threading.Event
    step: UpdateStep
    reporter: Reporter

    def train(self) -> None:
        train(self.training, self.stop, *self.hooks)


def make_learner(registry: CollectorRegistry, published: Callable[[], None], segments: int = 2) -> Learner:
    """A learner with all its own parts and segments of weights 3 and 5 from two shards. Remote services are stand-ins.

    Args:
        published: called after every publication.
        segments: from each shard. Updates are due for all steps except two.
    """
    stop = threading.Event()
    step = make_update_step(CONFIG, SPEC)
    publisher = SimpleNamespace(published=0, version=0, published_time=0.0, is_idle=True, is_finite=True)

    def publish(weights: Mapping[str, Tensor], mark: Tensor, updates: int) -> None:
        publisher.is_finite = bool(all_finite([mark, *weights.values()]))
        publisher.version += 5
        published()

    publisher.publish = publish
    ratio, receipts, memory = Ratio(RatioSettings.of(CONFIG)), Receipts(), make_memory(SHAPE)
    intake = Intake(SHAPE, receipts, ratio, memory, num_shards=2)
    for shard, version in enumerate((3, 5)):
        for number in range(segments):
            segment = numbered(number * SHAPE.steps, SHAPE.steps)
            stream = segment.stream.copy()
            stream[0, 0] = shard  # another actor
            versions = np.full_like(segment.weights_version, version)
            intake.put_fresh(shard, segment._replace(stream=stream, weights_version=versions))
    readers = [SimpleNamespace(shard=shard, is_up=True) for shard in range(2)]
    batches = MemoryBatches(memory, CONFIG.agent, CONFIG.learner.batch_size)
    replay = Replay("cached", ratio, receipts, memory, intake, cast(Any, readers), batches, term=0)
    member = cast(Any, SimpleNamespace(instructions=Instructions(RunState.RUNNING, 1000, 0, 0), check_fenced=lambda: None))
    watch = cast(Any, SimpleNamespace(status=GetStatusResponse()))
    reporter = Reporter(CONFIG, step, replay, cast(Any, publisher), member, watch, MetricLogger([]), LearnerMetrics(registry))

    def end_when_trained(done: Round) -> None:
        if intake.is_empty and ratio.updates_due == 0:
            stop.set()

    publications = Publications(step, cast(Any, publisher), CONFIG.learner.publish_period, reporter.phase, reporter.diverge)
    training = Training(
        replay=replay,
        updates=make_updates(CONFIG, step, batches),
        filling=cast(Any, SimpleNamespace(is_enough=True)),
        member=member,
        updates_to_edge=publications.updates_to_edge,
        nothing_comes=lambda now: False,
        phase=reporter.phase,
    )
    hooks = (reporter.remember_update, publications.publish_if_due, reporter.report_if_due, end_when_trained)
    return Learner(training, hooks, stop, step, reporter)


def test_what_a_learner_does_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learner.reporting.REPORT_SECONDS", float("inf"))  # no reports but ours
    registry = CollectorRegistry()
    learner = make_learner(registry, lambda: learner.reporter.report(learner.training.state))
    learner.train()
    learner.reporter.report(learner.training.state)

    def value(name: str, **labels: str) -> float:
        found = registry.get_sample_value(f"sbrl_learner_{name}", labels)
        assert found is not None, name
        return found

    # Of 16 steps, two are warm-up, and each of the others is worth half an update.
    assert (value("updates_total"), value("samples_trained_total")) == (7.0, 14.0)
    assert value("samples_due") == 0.0
    assert value("samples_per_insert_achieved") == 1.0
    # Each report is at a publication, which ends a block, so no block has more than two updates.
    counts = {phase: value("phase_seconds_count", phase=phase) for phase in LEARNER_PHASES}
    assert counts == {"wait": 0.0, "receive": 5.0, "sample": 0.0, "update": 5.0, "publish": 3.0}
    assert value("phase_seconds_sum", phase="update") > 0
    assert value("segments_received_total") == 4.0
    assert [value("transitions_received_total", shard=shard) for shard in ("0", "1")] == [8.0, 8.0]
    assert value("memory_transitions") == 16.0
    assert value("memory_resident_bytes") > 0
    assert value("shards_ready") == 2.0
    states = {state: value("state", state=state) for state in ("filling", "warming", "waiting", "training")}
    assert states == {"filling": 0.0, "warming": 0.0, "waiting": 1.0, "training": 0.0}
    assert np.isfinite(value("gradient_norm"))
    assert value("gpu_memory_bytes") == 0.0
    # Three reports at publications and the last one, each on a batch of two transitions.
    assert value("policy_lag_versions_count") == 8.0
    assert value("sample_age_env_steps_count") == 8.0


def test_waiting_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learner.loop.WAIT_SECONDS", 0.05)
    registry = CollectorRegistry()
    make_learner(registry, lambda: None, segments=0).train()
    assert registry.get_sample_value("sbrl_learner_phase_seconds_count", {"phase": "wait"}) == 1.0
    waited = registry.get_sample_value("sbrl_learner_blocked_seconds_total", {"waiting_for": "replay"})
    assert waited is not None
    assert waited >= 0.05


def test_what_the_learner_reports_is_of_the_run() -> None:
    learner = make_learner(CollectorRegistry(), lambda: None)
    learner.train()
    learner.reporter.report(learner.training.state)
    progress = learner.reporter.progress()
    assert (progress.updates, progress.samples_trained, progress.samples_due) == (7, 14, 14.0)
    assert [(shard.received, shard.answers) for shard in progress.shards] == [(8, True), (8, True)]
    assert (progress.memory_transitions, progress.memory_capacity) == (16, 1000)


def test_a_loss_that_is_not_finite_is_counted_before_the_learner_ends() -> None:
    registry = CollectorRegistry()

    def spoil() -> None:
        for tensor in learner.step.state().online.values():
            tensor.fill_(float("nan"))

    learner = make_learner(registry, spoil)
    with pytest.raises(RunError, match="the loss or the network is not finite after 4 updates"):
        learner.train()
    assert registry.get_sample_value("sbrl_learner_losses_not_finite_total") == 1.0
    loss = registry.get_sample_value("sbrl_learner_loss")
    assert loss is not None
    assert np.isnan(loss)


def test_ages_are_counted_from_the_publication_of_the_weights_that_items_were_collected_with() -> None:
    ages = SampleAges()
    lags, steps = ages.of(np.array([1, 2]), env_steps=50)
    assert (list(lags), steps) == ([], [])
    for version, env_steps in ((4, 100), (4, 150), (6, 200), (9, 300)):
        ages.published(version, env_steps)
    lags, steps = ages.of(np.array([9, 8, 6, 5, 4, 1, 12]), env_steps=350)
    assert list(lags) == [0, 1, 3, 4, 5, 8, 0]
    assert steps == [50, 150, 150, 250, 250, 250, 50]


def test_the_versions_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_age, "KEPT_VERSIONS", 4)
    ages = SampleAges()
    kept = []
    for version in range(1, 31):
        ages.published(version, 10 * version)
        kept.append(len(ages._versions))
        lags, steps = ages.of(np.array([version, version - 3]), env_steps=10 * version)
        assert (list(lags), steps[0]) == ([0, 3], 0)
        assert steps[1] == 30 or version < 4
    assert max(kept) == 8
    # Versions 26 to 30 are left: older ones are counted from the 26th.
    lags, steps = ages.of(np.array([27, 26, 25, 1]), env_steps=300)
    assert list(lags) == [3, 4, 5, 29]
    assert steps == [30, 40, 40, 40]
