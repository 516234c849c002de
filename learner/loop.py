"""The learner's loop: batch in, update, priorities out; now and then publish, save and report."""

from __future__ import annotations

import logging
import math
import threading
import time
from pathlib import Path
from typing import NoReturn

from learner.batches import BatchSource, SampledBatch
from learner.boards import Board
from learner.books import TrainingBooks
from learner.checkpoint import CheckpointStore
from learner.diagnostics import Readings
from learner.divergence import divergence
from learner.publisher import Publisher
from learner.records import HostCopy, LearnerState, UpdateResult, capture_random
from learner.sample_age import SampleAges
from learner.schedules import HorizonSchedule, ResetSchedule
from learner.settling import least_correction, settle
from learner.update import UpdateStep, gpu_memory_bytes
from sbrl.checkpoint_reports import CheckpointReports
from sbrl.checkpoints import size_and_digest
from sbrl.config import Config
from sbrl.errors import FinalError, RunError
from sbrl.fleet_member import FleetMember
from sbrl.fleet_watch import FleetWatch, all_collected, total
from sbrl.metrics import LEARNER_PHASES, LearnerMetrics, Totals
from sbrl.ratio_books import falls_short, missing_samples, samples_due
from sbrl.replay.items import Items
from sbrl.rpc import CoordinatorUnavailable
from sbrl.weights import StaleEpochError

logger = logging.getLogger(__name__)

BATCH_SECONDS = 0.5  # longest wait for a batch before looking at what else there is to do
REPORT_SECONDS = 1.0
# Once all is collected: the shards' last counts have reached the coordinator after this long (they beat once a second).
SETTLE_SECONDS = 3.0
# Once all is collected: shards that have served nothing for so long have nothing more to serve.
EXHAUSTED_SECONDS = 3.0
CORRECTIONS = 3  # times that the shards' limiters are then corrected before the rest is given up
RETRY_SECONDS = 10.0  # after a checkpoint that could not be written
# Once all is collected: how long a shard that is down is waited for. Pods of large ones take minutes to come back.
LOST_SHARD_SECONDS = 1800.0
STOPPED_SECONDS = 10.0  # a lease's time: a process that made no step for so long may have lost its place


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
        books: TrainingBooks,
        reports: CheckpointReports,
        saved: Path | None,
        max_priority: float,
    ) -> None:
        """
        Args:
            books: what the network was trained on so far.
            reports: of this learner's checkpoints.
            saved: the checkpoint that this learner goes on from.
            max_priority: the highest priority they have computed, 1 if none: new items are given it, so that each is likely to
                be seen once (Schaul et al. 2016; Dopamine).
        """
        self._config, self._step, self._source, self._store = config, step, source, store
        self._publisher, self._member, self._watch, self._board = publisher, member, watch, board
        self._metrics, self._totals, self._stop = metrics, Totals(), stop
        self._phases = {phase: metrics.phase_seconds.labels(phase) for phase in LEARNER_PHASES}
        self._ages = SampleAges()
        self._last_sampled: SampledBatch | None = None
        self._horizons, self._resets = HorizonSchedule.of(config), ResetSchedule.of(config)
        self._books, self._reports = books, reports
        self._saved = None if saved is None else (step.updates, saved)  # updates, checkpoint
        self._closed: tuple[float, float] | None = None  # samples served and discarded, when the books were closed
        self._settled = 0  # times that the limiters were corrected once all was collected
        self._returning: tuple[Items, HostCopy] | None = None  # priorities on their way from the device
        self._max_priority = max_priority
        self._last: UpdateResult | None = None
        self._reported_readings: Readings | None = None
        self._last_batch_time = time.monotonic()
        self._collected_time: float | None = None
        self._saved_time, self._failed_time = time.monotonic(), -math.inf
        self._reported_time, self._reported_updates = time.monotonic(), step.updates

    @property
    def samples_trained(self) -> int:
        """Those the network was trained on, over the whole run."""
        return self._books.in_network

    def run(self) -> bool:
        """Trains; returns whether the run's samples are all trained (rather than: told to stop).

        Raises:
            StaleEpochError: another learner has taken over.
            FinalError: training has come to what is not finite, or the shards have nothing left of what is to be trained on.
        """
        complete, last = False, time.monotonic()
        while not self._stop.is_set():
            self._member.check_fenced()
            complete = self._is_complete()
            if complete:
                break
            if self._may_train():
                self._train_next()
            else:
                self._stop.wait(BATCH_SECONDS)
            now = time.monotonic()
            if now - last > STOPPED_SECONDS:
                self._confirm_epoch()  # this process was stopped for a while: another may have taken its place
            last = now
            if now - self._reported_time >= REPORT_SECONDS:
                self.report()
            if now - self._failed_time >= RETRY_SECONDS:
                self._save_if_due(now)
        self._return_priorities()
        return complete

    def _save_if_due(self, now: float) -> None:
        """Saves where it is time to. What the disk refuses is said and tried again: to stop would lose what is not saved."""
        instructions = self._member.instructions
        try:
            if self._reports.is_due(instructions):
                if not self._reports.repeat(instructions):
                    self.save()
            elif now - self._saved_time >= self._config.run.checkpoint_interval_seconds:
                self.save()
        except (StaleEpochError, FinalError):
            raise
        except RunError as error:
            self._failed_time = now
            self._metrics.checkpoint_failures.inc()
            logger.error("checkpoint failed: %s; trying again in %.0f s", error, RETRY_SECONDS)

    def save(self) -> None:
        """Writes a checkpoint, and reports it if a generation waits for it.

        Raises:
            StaleEpochError: another learner has taken over, whose checkpoints these would mix with.
            FinalError: it would hold what is not finite.
            RunError: it cannot be written.
        """
        self._require_finite()
        self._confirm_epoch()
        instructions = self._member.instructions
        start, updates, path = time.monotonic(), self._step.updates, None
        if self._saved is not None and self._saved[0] == updates and self._saved[1].is_dir():
            path = self._saved[1]  # of the very same state
        counters: dict[str, int | float] = {
            **self._books.held(),
            "env_steps": instructions.env_steps,
            "max_priority": self._max_priority,
            **self._step.diagnostics.counters(),
        }
        if path is None:
            state = LearnerState(self._step.state(), counters, capture_random())
            path = self._store.save(state, self._reports.needed(instructions))
            self._metrics.checkpoints.inc()
        self._saved, self._saved_time = (updates, path), time.monotonic()
        self._metrics.checkpoint_duration_seconds.set(self._saved_time - start)
        logger.info("checkpoint %s", path.name)
        if instructions.checkpoint_wanted:
            held = {**self._books.held(), "updates": updates}
            self._reports.report(instructions.generation, path.name, *size_and_digest(path), held)

    def save_last(self) -> None:
        """Writes a checkpoint for a last generation, so that nothing is lost by stopping here."""
        try:
            self._member.order_generation()
        except RunError as error:
            logger.warning("no last generation: %s", error)
        self.save()  # which asks for instructions first

    def settle(self, least: float) -> None:
        """Has the shards' limiters corrected, where they are off by more than `least` samples: see `learner.settling`."""
        settle(self._config, self._member, self._watch, self._metrics, self._stop, least)
        self._last_batch_time = time.monotonic()

    def reported(self) -> dict[str, float]:
        """What beats report of this learner: at any moment what is served is trained, discarded or in flight."""
        counters = self._books.counters()
        counters["samples_served"], counters["samples_discarded"] = self._served_and_discarded()
        return counters

    def close_books(self) -> None:
        """Counts what was received and will not be trained on, for this learner stops.

        Streams may still be ending: what they do from now on changes nothing.
        """
        served, discarded = self._served_and_discarded()
        self._closed = served, served - self._books.trained
        self._metrics.samples_discarded.labels("stopped").inc(max(0.0, self._closed[1] - discarded))

    def _confirm_epoch(self) -> None:
        try:
            self._member.beat_now()
        except CoordinatorUnavailable as error:
            logger.debug("the epoch is not confirmed: %s", error)

    @property
    def in_flight(self) -> float:
        """Samples received and waiting for their update."""
        served, discarded = self._served_and_discarded()
        return served - discarded - self._books.trained

    def _served_and_discarded(self) -> tuple[float, float]:
        """Samples received, and those of them that were given up, of this process and of what it found saved."""
        if self._closed is not None:
            return self._closed
        discarded = float(self._source.samples_discarded)  # first: what is discarded was served before
        return float(self._source.samples_served + self._books.found), discarded

    def publish(self) -> None:
        """Hands the weights to act with to the publisher.

        Raises:
            FinalError: they are not finite, or what they were made from is not.
        """
        self._require_finite()
        self._publisher.publish(self._step.acting_weights(), self._step.updates)

    def report(self) -> None:
        """Brings metrics and the board up to date. Reads numbers off the device, so not part of every update."""
        now, metrics, source, raise_to = time.monotonic(), self._metrics, self._source, self._totals.raise_to
        updates_per_second = (self._step.updates - self._reported_updates) / max(now - self._reported_time, 1e-9)
        self._reported_time, self._reported_updates = now, self._step.updates
        books = self._books
        raise_to(metrics.updates, books.updates)
        raise_to(metrics.samples_trained, books.trained)
        raise_to(metrics.samples_lost, books.samples_lost)
        raise_to(metrics.updates_lost, books.updates_lost)
        served, discarded = self._served_and_discarded()
        raise_to(metrics.samples_served, served)
        if self._closed is None:
            raise_to(metrics.samples_discarded.labels("shard_lost"), discarded)
        for why, dropped in source.priorities_dropped.items():
            raise_to(metrics.priority_updates_dropped.labels(why), dropped)
        raise_to(metrics.priority_updates_evicted, source.priorities_evicted)
        raise_to(metrics.blocked_seconds.labels("replay"), source.wait_seconds)
        raise_to(metrics.weights_published, self._publisher.published)
        metrics.max_priority.set(self._max_priority)
        metrics.network_updates.set(self._step.updates)
        metrics.samples_in_flight.set(self.in_flight)
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
            self._diverge("the loss is not finite")
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

    def _require_finite(self) -> None:
        """Before anything is saved or published. Raises FinalError if training has come to what is not finite."""
        if not self._step.is_finite():
            self._diverge("the loss or the network is not finite")

    def _diverge(self, what: str) -> NoReturn:
        self._metrics.losses_not_finite.inc()  # the coordinator hears of it as this member leaves
        self._metrics.loss.set(math.nan)
        batch = None if self._last_sampled is None else self._last_sampled.batch
        raise divergence(what, self._step.updates, batch, self._step.data_is_finite(), self._config)

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
        self._last_sampled = sampled
        self._books.add(sampled.items.shard, len(sampled.items.key))
        self._last_batch_time = time.monotonic()
        if self._step.updates % self._config.learner.publish_period == 0:
            start = time.perf_counter()
            self.publish()
            self._phases["publish"].observe(time.perf_counter() - start)

    def _return_priorities(self) -> None:
        if self._returning is not None and self._config.replay.prioritized:
            items, priorities = self._returning
            values = priorities.numpy()
            if not math.isfinite(values.sum()):  # Reverb would refuse a NaN, and keep it all the same
                self._diverge("the loss is not finite")
            self._max_priority = max(self._max_priority, float(values.max()))
            self._source.update_priorities(items, values)
        self._returning = None

    def _report_sample_ages(self) -> None:
        """Of the batch trained on last: one a second is enough."""
        env_steps = self._member.instructions.env_steps
        self._ages.published(self._publisher.version, env_steps)
        if self._last_sampled is not None:
            versions = self._last_sampled.items.weights_version
            for lag, age in zip(*self._ages.of(versions, env_steps), strict=True):
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
        """What is due of all that has been inserted; negative where shards let the learner run ahead."""
        return samples_due(self._watch.status) - self.samples_trained

    def _may_train(self) -> bool:
        """Always while actors collect, for then the shards' limiters hold the ratio; later, as long as a batch is due."""
        return self._collected_time is None or self._samples_left() >= self._config.learner.batch_size / 2

    def _is_complete(self) -> bool:
        """Whether all is collected and every sample that the ratio allows is trained: the achieved ratio is then the target.

        Raises:
            FinalError: more is missing than the ratio's promise allows, and cannot be had any more.
        """
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
        if self._source.shards_up < self._config.replay.num_shards and now - self._collected_time < LOST_SHARD_SECONDS:
            return False  # one is being restarted, and may have something left
        if now - max(self._last_batch_time, self._collected_time) > EXHAUSTED_SECONDS:
            if self._settled < CORRECTIONS:
                self._settled += 1
                self.settle(least_correction(self._config))
                return False
            due, trained = samples_due(status), self.samples_trained
            if falls_short(due, trained, self._config.learner.batch_size):
                raise FinalError(missing_samples(due, trained))
            logger.warning("shards serve no more: %.0f samples that the ratio allows are missing", due - trained)
            return True
        return False
