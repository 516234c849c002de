"""A learner's loop with the real update, memory, ratio and reports, and with stand-ins for all remote services."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from prometheus_client import CollectorRegistry
from torch import Tensor

from learner.algorithm.schedules import Horizon
from learner.algorithm.update import UpdateStep, make_update_step
from learner.batches import Batches, Drawn
from learner.block import Phase, Trained, Updates, make_updates, untimed
from learner.checkpoint import CheckpointStore
from learner.ending import RunEnd
from learner.filling import Filling
from learner.loop import Training, train
from learner.metric_loggers import MetricLogger
from learner.publication import Publications
from learner.records import Batch
from learner.replay import Replay
from learner.reporting import Reporter
from learner.saving import Saver, StopNotice
from sbrl.config import Config, build
from sbrl.coordination.fleet import Instructions, RunState
from sbrl.envs.spec import EnvSpec
from sbrl.networks.serialization import all_finite
from sbrl.replay.segments import PADDING, Segment, SegmentShape, Stream
from sbrl.telemetry.metrics import LearnerMetrics
from sbrl.v1.fleet_pb2 import GetStatusResponse

SPEC = EnvSpec(3, (4,), np.dtype(np.float32), 1, "vector", False)
CONFIG = build(
    {
        "agent": {"hidden_size": 8, "num_quantiles": 4},
        "learner": {"publish_period": 2, "batch_size": 2, "updates_per_step": 1},
        "replay": {"min_size": 4, "capacity": 1000, "num_shards": 2},
        "network": {"replay_addresses": ["127.0.0.1:9", "127.0.0.1:10"]},
    }
)
SHAPE = SegmentShape.of(SPEC, CONFIG.agent.stored_steps)


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


def make_segment(first: int, steps: int = 32, incarnation: int = 1, env: int = 0, version: int = 3) -> Segment:
    """A segment of an environment's only stream: different frames, rewards of 1."""
    columns = {name: np.zeros(dims, dtype) for name, (dims, dtype) in SHAPE.columns().items()}
    columns["frame"][:] = np.arange(first, first + SHAPE.rows)[:, None]
    columns["action"][:], columns["action"][steps:] = 1, PADDING
    columns["reward"][:], columns["discount"][:], columns["weights_version"][:] = 1.0, 1.0, version
    columns["stream"][0] = (*Stream(actor=0, incarnation=incarnation, env=env, stream=0), first)
    return Segment(**columns)


class FixedBatches:
    """Returns the k-th batch that `batch` makes; keeps the priorities that it gets."""

    is_ready, priorities_ignored = True, 0

    def __init__(self, batch: Callable[[int], Batch] = lambda k: make_batch()) -> None:
        self._batch, self._given = batch, 0
        self.priorities: list[Tensor] = []

    def next(self, horizon: Horizon, timeout: float) -> Drawn:
        self._given += 1
        return Drawn(self._batch(self._given), None, lambda: np.array([3, 5]))

    def update_priorities(self, drawn: Drawn, priorities: Tensor) -> None:
        self.priorities.append(priorities)

    def max_priority(self) -> float:
        return max((float(batch.max()) for batch in self.priorities), default=1.0)


class _Limited(NamedTuple):
    """Makes no block that exceeds a total number of updates."""

    limit: int
    step: UpdateStep
    updates: Updates

    def run(self, most: int, phase: Phase = untimed) -> Trained | None:
        return self.updates.run(max(1, min(most, self.limit - self.step.updates)), phase)


class Learner:
    """A learner whose loop ends after a number of updates."""

    def __init__(
        self,
        directory: Path,
        registry: CollectorRegistry,
        updates: int,
        batches: Batches | None = None,
        config: Config = CONFIG,
        interval_seconds: float = math.inf,
        on_publish: Callable[[], None] = lambda: None,
    ) -> None:
        """Args: batches: used instead of its memory's."""
        self._on_publish = on_publish
        self._stop = SimpleNamespace(is_set=lambda: self.step.updates >= updates)
        self.step: UpdateStep = make_update_step(config, SPEC)
        self.replay = Replay.of(config, SPEC, torch.device("cpu"), "cached", None, term=1)
        if batches is not None:
            self.replay = self.replay._replace(batches=batches)
        self.instructions = Instructions(RunState.RUNNING, 1000, 0, 0)
        self.published: list[int] = []
        self.publisher = SimpleNamespace(
            published=0, version=0, published_time=0.0, is_idle=True, is_finite=True, publish=self._publish
        )
        self.metrics = LearnerMetrics(registry)
        self.watch = SimpleNamespace(status=GetStatusResponse())
        self.store = CheckpointStore(directory, keep=2)
        self.reporter = Reporter(
            config,
            self.step,
            self.replay,
            cast(Any, self.publisher),
            cast(Any, self),
            cast(Any, self.watch),
            MetricLogger([]),
            self.metrics,
        )
        self.saver = Saver(
            self.store,
            interval_seconds,
            self.step,
            self.replay.ratio,
            self.replay.receipts,
            self.metrics,
            max_priority=self.replay.batches.max_priority,
            env_steps=lambda: self.instructions.env_steps,
            check=self.reporter.require_finite,
        )
        self.stop_notice = StopNotice(self.saver, lambda since: self.has_exchanged_since(since))
        self.publications = Publications(
            self.step, cast(Any, self.publisher), config.learner.publish_period, self.reporter.phase, self.reporter.diverge
        )
        self.filling = Filling(self.replay.readers, self.replay.intake)
        self.training = Training(
            replay=self.replay,
            updates=_Limited(updates, self.step, make_updates(config, self.step, self.replay.batches)),
            filling=self.filling,
            member=cast(Any, self),
            updates_to_edge=self.publications.updates_to_edge,
            nothing_comes=RunEnd(cast(Any, self.watch), self.replay.readers, self.replay.intake).is_reached,
            phase=self.reporter.phase,
        )

    def train(self) -> None:
        """Trains like the learner's program, with its hooks."""
        train(
            self.training,
            cast(Any, self._stop),
            self.reporter.remember_update,
            lambda done: self.stop_notice.hold_after_stop(done.time),
            self.publications.publish_if_due,
            lambda done: self.filling.update_progress(done.time),
            self.reporter.report_if_due,
            lambda done: self.saver.save_if_due(done.time),
        )

    def check_fenced(self) -> None:
        """Called in each turn of the loop."""

    def has_exchanged_since(self, since: float) -> bool:
        return True

    def _publish(self, weights: Mapping[str, Tensor], mark: Tensor, updates: int) -> None:
        """Checks weights like the real publisher, which does that on another thread."""
        self.publisher.is_finite &= bool(all_finite([mark, *weights.values()]))
        if not self.publisher.is_finite:
            return
        self.published.append(updates)
        self.publisher.version += 5
        self._on_publish()
