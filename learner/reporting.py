"""The learner's reports: metrics, scalars for the metric logger, and progress for the coordinator."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from learner.algorithm.diagnostics import Readings
from learner.algorithm.divergence import divergence
from learner.algorithm.schedules import HorizonSchedule, ResetSchedule
from learner.algorithm.update import UpdateStep, gpu_memory_bytes
from learner.batches import Drawn
from learner.loop import Round
from learner.metric_loggers import MetricLogger
from learner.publisher import Publisher
from learner.records import UpdateResult
from learner.replay import Replay
from learner.sample_age import SampleAges
from sbrl.config import Config
from sbrl.coordination.fleet_watch import FleetWatch
from sbrl.coordination.membership import FleetMember
from sbrl.replay.receipts import WITH_ACTORS, Counts
from sbrl.telemetry.metrics import LEARNER_PHASES, LEARNER_STATES, LearnerMetrics, Totals
from sbrl.v1.fleet_pb2 import LearnerProgress, LearnerState, ShardProgress

REPORT_SECONDS = 1.0


class Reporter:
    """Reads numbers from the device once a second rather than in every update."""

    def __init__(
        self,
        config: Config,
        step: UpdateStep,
        replay: Replay,
        publisher: Publisher,
        member: FleetMember,
        watch: FleetWatch,
        metric_logger: MetricLogger,
        metrics: LearnerMetrics,
    ) -> None:
        self._batches, self._max_priority = replay.batches, replay.batches.max_priority()
        self._step, self._ratio, self._receipts, self._intake = step, replay.ratio, replay.receipts, replay.intake
        self._memory, self._sampling = replay.memory, f"SAMPLING_{replay.sampling.upper()}"
        self._readers, self._publisher, self._member, self._watch = replay.readers, publisher, member, watch
        self._metric_logger, self._metrics, self._totals = metric_logger, metrics, Totals()
        self._config = config
        self._horizons, self._resets = HorizonSchedule.of(config), ResetSchedule.of(config)
        self._phases = {phase: metrics.phase_seconds.labels(phase) for phase in LEARNER_PHASES}
        self._waited = metrics.blocked_seconds.labels("replay")
        self._ages = SampleAges()
        self._drawn: Drawn | None = None
        self._last: UpdateResult | None = None
        self._state = LearnerState.LEARNER_STATE_UNSPECIFIED
        self._reported_readings: Readings | None = None
        self._reported_time, self._reported_updates = time.monotonic(), step.updates
        self._updates_before, self._received_before = step.updates, replay.receipts.counts
        self._progress = self._read_progress()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times a phase of the loop."""
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self._phases[name].observe(seconds)
            if name == "wait":
                self._waited.inc(seconds)

    def remember_update(self, done: Round) -> None:
        """After a round: keeps its last update for the next report."""
        if done.trained is not None:
            self._drawn, self._last = done.trained.drawn, done.trained.result

    def progress(self) -> LearnerProgress:
        """The progress at the last report. For the heartbeat thread, which must not read counts while they change."""
        return self._progress

    def _read_progress(self) -> LearnerProgress:
        return LearnerProgress(
            updates=self._step.updates,
            samples_trained=self._ratio.trained,
            samples_due=self._ratio.due,
            max_priority=self._max_priority,
            shards=[
                ShardProgress(**self._receipts.of_shard(reader.shard)._asdict(), answers=reader.is_up)
                for reader in self._readers
            ],
            lost_with_actors=self._receipts.of_shard(WITH_ACTORS).lost - self._receipts.of_shard(WITH_ACTORS).recovered,
            state=self._state,
            memory_transitions=self._memory.size,
            memory_capacity=self._memory.capacity,
            sampling=self._sampling,
        )

    def report_if_due(self, done: Round) -> None:
        """After a round: calls `report` once a second."""
        if done.time - self._reported_time >= REPORT_SECONDS:
            self.report(done.state)

    def report(self, state: LearnerState) -> None:
        """Brings metrics and the metric logger up to date.

        Raises:
            FinalError: the loss is not finite.
        """
        self._state = state
        now, metrics, raise_to = time.monotonic(), self._metrics, self._totals.raise_to
        updates_per_second = (self._step.updates - self._reported_updates) / max(now - self._reported_time, 1e-9)
        self._reported_time, self._reported_updates = now, self._step.updates
        own_updates = self._step.updates - self._updates_before
        raise_to(metrics.updates, own_updates)
        raise_to(metrics.samples_trained, own_updates * self._ratio.batch_size)
        raise_to(metrics.segments_received, self._intake.segments)
        raise_to(metrics.priority_updates_ignored, self._batches.priorities_ignored)
        raise_to(metrics.weights_published, self._publisher.published)
        for shard, counts in self._receipts.counts.items():
            label, before = "actors" if shard == WITH_ACTORS else str(shard), self._received_before.get(shard, Counts())
            raise_to(metrics.transitions_received.labels(label), counts.received - before.received)
            raise_to(metrics.transitions_duplicate.labels(label), counts.duplicates - before.duplicates)
            raise_to(metrics.transitions_lost.labels(label), counts.lost - before.lost)
            raise_to(metrics.transitions_recovered.labels(label), counts.recovered - before.recovered)
        for name in LEARNER_STATES:
            metrics.state.labels(name).set(LearnerState.Name(state) == f"LEARNER_STATE_{name.upper()}")
        self._max_priority = self._batches.max_priority()
        self._progress = self._read_progress()
        metrics.max_priority.set(self._max_priority)
        metrics.samples_due.set(self._ratio.due - self._ratio.trained)
        metrics.samples_per_insert_achieved.set(self._ratio.achieved)
        metrics.network_updates.set(self._step.updates)
        metrics.memory_transitions.set(self._memory.size)
        metrics.memory_resident_bytes.set(self._memory.resident_bytes)
        metrics.memory_filled.set(self._intake.filled)
        metrics.shards_ready.set(sum(reader.is_up for reader in self._readers))
        metrics.weights_version.set(self._publisher.version)
        metrics.weights_age_seconds.set(now - self._publisher.published_time)
        metrics.gpu_memory_bytes.set(gpu_memory_bytes(self._step.device))
        self._report_sample_ages()
        self._report_diagnostics()
        if self._last is not None and updates_per_second > 0.0:
            self._report_update(self._last, updates_per_second)

    def _report_update(self, last: UpdateResult, updates_per_second: float) -> None:
        metrics = self._metrics
        loss, spr_loss = float(last.loss.item()), float(last.spr_loss.item())
        if not math.isfinite(loss + spr_loss):
            self.diverge("the loss is not finite")
        metrics.loss.set(loss)
        gradient_norm = float(last.gradient.norm().item())
        metrics.gradient_norm.set(gradient_norm)
        td_error = float(last.td_error().item())
        metrics.td_error.set(td_error)
        self._metric_logger.learner(
            env_steps=self._member.instructions.env_steps,
            loss=loss,
            spr_loss=spr_loss,
            mean_q=float(last.mean_q().item()),
            td_error=td_error,
            gradient_norm=gradient_norm,
            updates_per_second=updates_per_second,
            samples_per_insert=self._ratio.achieved,
            updates=self._step.updates,
            resets=self._resets.resets(self._step.updates),
            horizon=self._horizons.at(self._step.updates),
        )
        self._metric_logger.returns(self._watch.status)

    def require_finite(self) -> None:
        """Called before a save. Raises FinalError if a loss or the state to save is not finite."""
        if not self._step.is_finite():
            self.diverge("the loss or the network is not finite")

    def diverge(self, what: str) -> NoReturn:
        """Ends training. Args: what: says what is not finite. Raises: FinalError, with cause and remedy."""
        self._metrics.losses_not_finite.inc()  # the coordinator learns of it when this member leaves
        self._metrics.loss.set(math.nan)
        batch = None if self._drawn is None else self._drawn.batch
        raise divergence(what, self._step.updates, batch, self._step.data_is_finite(), self._config)

    def _report_sample_ages(self) -> None:
        """Reports the ages in the last batch: one batch a second is enough."""
        env_steps = self._member.instructions.env_steps
        self._ages.published(self._publisher.version, env_steps)
        if self._drawn is None:
            return
        lags, ages = self._ages.of(self._drawn.weights_versions(), env_steps)
        for lag, age in zip(lags, ages, strict=True):
            self._metrics.policy_lag_versions.observe(lag)
            self._metrics.sample_age_env_steps.observe(age)

    def _report_diagnostics(self) -> None:
        metrics, diagnostics = self._metrics, self._step.diagnostics
        self._totals.raise_to(metrics.diagnostics, diagnostics.measurements)
        self._totals.raise_to(metrics.diagnostics_seconds, diagnostics.seconds)
        readings = diagnostics.readings
        if readings is None or readings is self._reported_readings:
            return
        self._reported_readings = readings
        metrics.gradient_noise_scale.set(readings.gradient.noise_scale)
        metrics.gradient_signal.set(readings.gradient.signal)
        metrics.gradient_variance.set(readings.gradient.noise)
        metrics.policy_churn_ratio.set(readings.policy_churn_ratio)
        metrics.dormant_units_ratio.set(readings.dormant_units_ratio)
        metrics.feature_rank.set(readings.feature_rank)
        metrics.parameter_norm.set(readings.parameter_norm)
        metrics.td_error_newest.set(readings.td_errors.get("newest", math.nan))
        metrics.td_error_uniform.set(readings.td_errors.get("uniform", math.nan))
        self._metric_logger.diagnostics(readings, self._member.instructions.env_steps)
