"""The learner's loop: batch in, update, priorities out; now and then publish, save and report."""

from __future__ import annotations

import logging
import math
import threading
import time

from learner.batches import BatchSource, SampledBatch
from learner.boards import Board
from learner.checkpoint import CheckpointStore
from learner.diagnostics import Readings
from learner.publisher import Publisher
from learner.records import HostCopy, LearnerState, UpdateResult, capture_random
from learner.sample_age import SampleAges
from learner.schedules import HorizonSchedule, ResetSchedule
from learner.update import UpdateStep, gpu_memory_bytes
from sbrl.config import Config
from sbrl.errors import RunError
from sbrl.fleet import FleetMember
from sbrl.fleet_watch import FleetWatch, all_collected, total
from sbrl.metrics import LEARNER_PHASES, LearnerMetrics, Totals
from sbrl.replay.items import Items

logger = logging.getLogger(__name__)

BATCH_SECONDS = 0.5  # longest wait for a batch before looking at what else there is to do
REPORT_SECONDS = 1.0
# Once all is collected: the shards' last counts have reached the coordinator after this long (they beat once a second).
SETTLE_SECONDS = 3.0
# Once all is collected: shards that have served nothing for so long have nothing more to serve.
EXHAUSTED_SECONDS = 10.0


class LearnerLoop:
    """Trains until the run's samples are trained or `stop` is set. What it uses is made, and closed, by its caller."""

    def __init__(
        self,
        config: Config,
        step: UpdateStep,
        source: BatchSource,
        store: CheckpointStore,
        publisher: Publisher,
        member: FleetMember,
        watch: FleetWatch,
        board: Board,
        metrics: LearnerMetrics,
        stop: threading.Event,
        trained_before: int,
        max_priority: float,
    ) -> None:
        """
        Args:
            trained_before: samples that earlier processes of this run have trained on.
            max_priority: the highest priority they have computed, 1 if none: new items are given it, so that each is likely to
                be seen once (Schaul et al. 2016; Dopamine).
        """
        self._config, self._step, self._source, self._store = config, step, source, store
        self._publisher, self._member, self._watch, self._board = publisher, member, watch, board
        self._metrics, self._totals, self._stop = metrics, Totals(), stop
        self._phases = {phase: metrics.phase_seconds.labels(phase) for phase in LEARNER_PHASES}
        self._ages = SampleAges()
        self._last_items: Items | None = None
        self._horizons, self._resets = HorizonSchedule.of(config), ResetSchedule.of(config)
        self._trained_before = trained_before
        self._trained = 0
        self._updates_at_start = step.updates
        self._returning: tuple[Items, HostCopy] | None = None  # priorities on their way from the device
        self._max_priority = max_priority
        self._last: UpdateResult | None = None
        self._reported_readings: Readings | None = None
        self._last_batch_time = time.monotonic()
        self._collected_time: float | None = None
        self._saved_time = time.monotonic()
        self._reported_time, self._reported_updates = time.monotonic(), step.updates

    @property
    def samples_trained(self) -> int:
        """Over the whole run, all learner processes together."""
        return self._trained_before + self._trained

    def run(self) -> bool:
        """Trains; returns whether the run's samples are all trained (rather than: told to stop).

        Raises:
            StaleEpochError: another learner has taken over.
        """
        complete = False
        while not self._stop.is_set():
            complete = self._is_complete()
            if complete:
                break
            if self._may_train():
                self._train_next()
            else:
                self._stop.wait(BATCH_SECONDS)
            now = time.monotonic()
            if now - self._reported_time >= REPORT_SECONDS:
                self.report()
            if now - self._saved_time >= self._config.run.checkpoint_interval_seconds:
                self.save()
        self._return_priorities()
        return complete

    def save(self) -> None:
        """Writes a checkpoint."""
        counters: dict[str, int | float] = {
            "samples_trained": self.samples_trained,
            "env_steps": self._member.instructions.env_steps,
            "max_priority": self._max_priority,
            **self._step.diagnostics.counters(),
        }
        start = time.monotonic()
        path = self._store.save(LearnerState(self._step.state(), counters, capture_random()))
        self._saved_time = time.monotonic()
        self._metrics.checkpoint_duration_seconds.set(self._saved_time - start)
        self._metrics.checkpoints.inc()
        logger.info("checkpoint %s", path.name)

    def publish(self) -> None:
        """Hands the weights to act with to the publisher."""
        self._publisher.publish(self._step.acting_weights(), self._step.updates)

    def report(self) -> None:
        """Brings metrics and the board up to date. Reads numbers off the device, so not part of every update."""
        now, metrics, source, raise_to = time.monotonic(), self._metrics, self._source, self._totals.raise_to
        updates_per_second = (self._step.updates - self._reported_updates) / max(now - self._reported_time, 1e-9)
        self._reported_time, self._reported_updates = now, self._step.updates
        raise_to(metrics.updates, self._step.updates - self._updates_at_start)
        raise_to(metrics.samples_trained, self._trained)
        raise_to(metrics.samples_served, source.samples_served)
        raise_to(metrics.samples_discarded.labels("shard_lost"), source.samples_discarded)
        raise_to(metrics.priority_updates_dropped.labels("shard_lost"), source.priorities_dropped)
        raise_to(metrics.blocked_seconds.labels("replay"), source.wait_seconds)
        raise_to(metrics.weights_published, self._publisher.published)
        metrics.max_priority.set(self._max_priority)
        metrics.network_updates.set(self._step.updates)
        metrics.samples_in_flight.set(source.samples_served - source.samples_discarded - self._trained)
        metrics.shards_ready.set(source.shards_up)
        metrics.weights_version.set(self._publisher.version)
        metrics.weights_age_seconds.set(now - self._publisher.published_time)
        metrics.checkpoint_age_seconds.set(now - self._saved_time)
        metrics.gpu_memory_bytes.set(gpu_memory_bytes(self._step.device))
        self._report_sample_ages()
        self._report_diagnostics()
        achieved = self._samples_per_insert()
        metrics.samples_per_insert_achieved.set(achieved)
        if self._last is None or updates_per_second == 0.0:
            return
        loss, spr_loss = float(self._last.loss.item()), float(self._last.spr_loss.item())
        if not math.isfinite(loss + spr_loss):
            metrics.losses_not_finite.inc()  # the coordinator hears of it as this member leaves
            metrics.loss.set(loss + spr_loss)
            raise RunError(
                f"the loss is {loss + spr_loss} after {self._step.updates} updates: lower learner.learning_rate and resume"
            )
        metrics.loss.set(loss)
        gradient_norm = float(self._step.gradient_norm().item())
        metrics.gradient_norm.set(gradient_norm)
        td_error = float(self._last.td_error().item())
        metrics.td_error.set(td_error)
        self._board.learner(
            env_steps=self._member.instructions.env_steps,
            loss=loss,
            spr_loss=spr_loss,
            mean_q=float(self._last.mean_q().item()),
            td_error=td_error,
            gradient_norm=gradient_norm,
            updates_per_second=updates_per_second,
            samples_per_insert=achieved,
            updates=self._step.updates,
            resets=self._resets.resets(self._step.updates),
            horizon=self._horizons.at(self._step.updates),
        )
        self._board.returns(self._watch.status)

    def _train_next(self) -> None:
        """Trains on the next batch, if there is one in time, and takes the time of each phase."""
        start, waited_before = time.perf_counter(), self._source.wait_seconds
        sampled = self._source.get(BATCH_SECONDS, self._horizons.at(self._step.updates))
        got, waited = time.perf_counter(), self._source.wait_seconds - waited_before
        self._phases["wait"].observe(waited)
        if sampled is not None:
            self._phases["copy"].observe(max(0.0, got - start - waited))
            self._train(sampled)

    def _train(self, sampled: SampledBatch) -> None:
        start = time.perf_counter()
        result = self._step.update(sampled.batch)
        # The last update's priorities: by now they have left the device without anyone having waited for them.
        self._return_priorities()
        self._phases["update"].observe(time.perf_counter() - start)
        self._returning, self._last = (sampled.items, result.priorities), result
        self._last_items = sampled.items
        self._trained += len(sampled.items.key)
        self._last_batch_time = time.monotonic()
        if self._step.updates % self._config.learner.publish_period == 0:
            start = time.perf_counter()
            self.publish()
            self._phases["publish"].observe(time.perf_counter() - start)

    def _return_priorities(self) -> None:
        if self._returning is not None and self._config.replay.prioritized:
            items, priorities = self._returning
            values = priorities.numpy()
            self._max_priority = max(self._max_priority, float(values.max()))
            self._source.update_priorities(items, values)
        self._returning = None

    def _report_sample_ages(self) -> None:
        """Of the batch trained on last: one a second is enough."""
        env_steps = self._member.instructions.env_steps
        self._ages.published(self._publisher.version, env_steps)
        if self._last_items is None:
            return
        lags, ages = self._ages.of(self._last_items, env_steps)
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
        self._board.diagnostics(readings, self._member.instructions.env_steps)

    def _inserted_after_warm_up(self) -> float:
        return total(self._watch.status, "replay.transitions_inserted") - self._config.min_replay_size

    def _samples_per_insert(self) -> float:
        after_warm_up = self._inserted_after_warm_up()
        return self.samples_trained / after_warm_up if after_warm_up > 0 else 0.0

    def _samples_left(self) -> float:
        """What the ratio still allows of all that has been inserted; negative where shards let the learner run ahead."""
        return self._config.samples_per_insert * self._inserted_after_warm_up() - self.samples_trained

    def _may_train(self) -> bool:
        """Always while actors collect, for then the shards' limiters hold the ratio; later, as long as a batch is due."""
        return self._collected_time is None or self._samples_left() >= self._config.learner.batch_size / 2

    def _is_complete(self) -> bool:
        """Whether all is collected and every sample that the ratio allows is trained: the achieved ratio is then the target."""
        status, now = self._watch.status, time.monotonic()
        if not all_collected(status):
            self._collected_time = None
            return False
        if self._collected_time is None:
            self._collected_time = now
        if now - self._collected_time < SETTLE_SECONDS:
            return False
        if not self._may_train():
            return True
        if self._source.shards_up < self._config.replay.num_shards:
            return False  # one is being restarted, and may have something left
        if now - max(self._last_batch_time, self._collected_time) > EXHAUSTED_SECONDS:
            logger.warning("shards serve no more: %.0f samples that the ratio allows are missing", self._samples_left())
            return True
        return False
