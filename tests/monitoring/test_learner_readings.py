"""What the learner exports of its own work: phases, ages of samples, and a loss that is not finite."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from learner.books import TrainingBooks
from prometheus_client import CollectorRegistry

from learner import sample_age
from learner.batches import SampledBatch
from learner.boards import Board
from learner.loop import LearnerLoop
from learner.records import Batch
from learner.sample_age import SampleAges
from learner.update import make_update_step
from sbrl.config import build
from sbrl.envs.spec import EnvSpec
from sbrl.errors import RunError
from sbrl.fleet import Instructions, RunState
from sbrl.metrics import LEARNER_PHASES, LearnerMetrics
from sbrl.replay.items import Items
from sbrl.v1.fleet_pb2 import GetStatusResponse

SPEC = EnvSpec(3, (4,), np.dtype(np.float32), 1, "vector", False)
CONFIG = build({"agent": {"hidden_size": 8, "num_quantiles": 4}, "learner": {"publish_period": 2, "batch_size": 2}})


def make_items(*weights_versions: int) -> Items:
    size = len(weights_versions)
    meta = np.zeros((size, 1, 5), np.int64)
    meta[:, 0, 4] = weights_versions
    return Items(
        frame=np.zeros((size, 4, 4), np.float32),
        action=np.zeros((size, 3), np.int32),
        reward=np.zeros((size, 3), np.float32),
        discount=np.ones((size, 3), np.float32),
        meta=meta,
        key=np.arange(size, dtype=np.uint64),
        probability=np.full(size, 0.01),
        table_size=100,
        shard=0,
    )


def make_batch() -> Batch:
    observation = torch.ones((2, 1, 4))
    return Batch(
        s_tm1=observation,
        a_tm1=torch.zeros(2, dtype=torch.int64),
        r_t=torch.ones(2),
        discount_t=torch.full((2,), 0.9),
        s_t=observation,
        probability=torch.full((2,), 0.01, dtype=torch.float64),
    )


class Source:
    """Gives the same batch again and again; each has been waited for a second, and two shards are up."""

    samples_served, samples_discarded, priorities_evicted, shards_up = 100, 0, 0.0, 2
    priorities_dropped: ClassVar[dict[str, int]] = {}

    def __init__(self) -> None:
        self.wait_seconds = 0.0

    def get(self, *arguments: object) -> SampledBatch:
        self.wait_seconds += 1.0
        return SampledBatch(make_batch(), make_items(3, 5))

    def update_priorities(self, *arguments: object) -> None: ...


def make_loop(registry: CollectorRegistry, after_step: Callable[[LearnerLoop], None], steps: int) -> LearnerLoop:
    """A loop with the real update, which is stopped after so many updates; all around it stands still."""
    stop = threading.Event()
    step = make_update_step(CONFIG, SPEC)
    publisher = SimpleNamespace(published=0, version=0, published_time=0.0)

    def publish(*arguments: object) -> None:
        publisher.version += 5
        if step.updates >= steps:
            stop.set()
        after_step(loop)

    publisher.publish = publish
    loop = LearnerLoop(
        CONFIG,
        step,
        cast(Any, Source()),
        cast(Any, None),
        cast(Any, publisher),
        cast(Any, SimpleNamespace(instructions=Instructions(RunState.RUNNING, 1000, 0, 0), check_fenced=lambda: None)),
        cast(Any, SimpleNamespace(status=GetStatusResponse(totals={"replay.transitions_inserted": 1e6}))),
        Board([]),
        LearnerMetrics(registry),
        stop,
        books=TrainingBooks(CONFIG.replay.num_shards, {}, {}, updates=0),
        reports=cast(Any, SimpleNamespace(is_due=lambda instructions: False)),
        saved=None,
        max_priority=1.0,
    )
    return loop


def test_phases_and_ages_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learner.loop.REPORT_SECONDS", float("inf"))  # no reports but ours
    registry = CollectorRegistry()
    loop = make_loop(registry, lambda loop: loop.report(), steps=4)
    loop.run()

    def value(name: str, **labels: str) -> float:
        found = registry.get_sample_value(f"sbrl_learner_{name}", labels)
        assert found is not None, name
        return found

    counts = {phase: value("phase_seconds_count", phase=phase) for phase in LEARNER_PHASES}
    assert counts == {"wait": 4.0, "copy": 4.0, "update": 4.0, "publish": 2.0}
    assert value("phase_seconds_sum", phase="wait") == pytest.approx(4.0)
    assert value("phase_seconds_sum", phase="update") > 0
    assert np.isfinite(value("gradient_norm"))
    assert value("gpu_memory_bytes") == 0.0
    # Two reports on items of versions 3 and 5, with version 5 published first, then 10.
    assert value("policy_lag_versions_count") == 4.0
    assert value("policy_lag_versions_sum") == 2 + 0 + 7 + 5
    assert value("sample_age_env_steps_count") == 4.0


def test_a_loss_that_is_not_finite_is_counted_before_the_learner_ends() -> None:
    registry = CollectorRegistry()

    def spoil(loop: LearnerLoop) -> None:
        for tensor in loop._step.state().online.values():
            tensor.fill_(float("nan"))

    loop = make_loop(registry, spoil, steps=4)

    def train_and_report() -> None:
        loop.run()
        loop.report()

    with pytest.raises(RunError, match="the loss is not finite after 4 updates"):
        train_and_report()
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
    # Versions 26 to 30 are left: what is older is counted from the 26th.
    lags, steps = ages.of(np.array([27, 26, 25, 1]), env_steps=300)
    assert list(lags) == [3, 4, 5, 29]
    assert steps == [30, 40, 40, 40]
