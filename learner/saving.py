"""When the learner saves, and what: one checkpoint with network, optimizer and receipts."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from learner.algorithm.update import UpdateStep
from learner.checkpoint import CheckpointStore, SavedLearner, capture_random
from learner.ratio import Ratio
from sbrl.coordination.weights import StaleTermError
from sbrl.errors import FinalError, RunError
from sbrl.replay.receipts import Receipts
from sbrl.telemetry.metrics import LearnerMetrics

logger = logging.getLogger(__name__)

STOPPED_SECONDS = 10.0  # a lease's time: a process that stood still for this long may have been replaced
RETRY_SECONDS = 10.0  # wait after a checkpoint that could not be written


class StopNotice:
    """Notices that this process stood still, for example after a SIGSTOP.

    Checkpoints then wait until the coordinator has answered a heartbeat, which shows that this learner was not replaced.
    """

    def __init__(self, saver: Saver, has_exchanged_since: Callable[[float], bool]) -> None:
        """Args: has_exchanged_since: whether a heartbeat sent after a time (monotonic clock, seconds) was answered."""
        self._saver, self._has_exchanged_since = saver, has_exchanged_since
        self._checked_time = time.monotonic()

    def hold_after_stop(self, now: float) -> None:
        """After a round: holds saves back if the round before was long ago. Args: now: of the monotonic clock, seconds."""
        if now - self._checked_time > STOPPED_SECONDS:
            self._saver.hold_until(partial(self._has_exchanged_since, now))
        self._checked_time = now


class Saver:
    """Writes a checkpoint every `interval_seconds`, and on `save`."""

    def __init__(
        self,
        store: CheckpointStore,
        interval_seconds: float,
        step: UpdateStep,
        ratio: Ratio,
        receipts: Receipts,
        metrics: LearnerMetrics,
        max_priority: Callable[[], float],
        env_steps: Callable[[], int],
        check: Callable[[], None],
    ) -> None:
        """
        Args:
            max_priority: the highest priority computed.
            env_steps: agent steps of the run so far.
            check: called before anything is written. Raises StaleTermError or FinalError if nothing may be saved.
        """
        self._store, self._interval, self._step, self._ratio, self._receipts = store, interval_seconds, step, ratio, receipts
        self._metrics, self._max_priority, self._env_steps, self._check = metrics, max_priority, env_steps, check
        self._saved_time, self._failed_time = time.monotonic(), -math.inf
        self._may_save: Callable[[], bool] = lambda: True
        metrics.checkpoint_age_seconds.set_function(lambda: time.monotonic() - self._saved_time)

    def hold_until(self, may_save: Callable[[], bool]) -> None:
        """Makes no periodic save until `may_save` is true: this process stood still and may have been replaced."""
        self._may_save = may_save

    def save_if_due(self, now: float) -> None:
        """Saves if it is time. A failed write is logged and tried again, because stopping would lose the unsaved training.

        Args:
            now: of the monotonic clock, seconds.

        Raises:
            StaleTermError: another learner has taken over.
            FinalError: the checkpoint would hold values that are not finite.
        """
        if now - self._saved_time < self._interval or now - self._failed_time < RETRY_SECONDS or not self._may_save():
            return
        try:
            self.save()
        except (StaleTermError, FinalError):
            raise
        except RunError as error:
            self._failed_time = now
            self._metrics.checkpoint_failures.inc()
            logger.error("checkpoint failed: %s; trying again in %.0f s", error, RETRY_SECONDS)

    def save(self) -> None:
        """Writes a checkpoint.

        Raises:
            StaleTermError: another learner has taken over; its checkpoints must not be mixed with this one's.
            FinalError: the checkpoint would hold values that are not finite.
            RunError: the checkpoint cannot be written.
        """
        self._check()
        start = time.monotonic()
        counters: dict[str, int | float] = {
            "samples_trained": self._ratio.trained,
            "max_priority": self._max_priority(),
            "env_steps": self._env_steps(),
            **self._step.diagnostics.counters(),
        }
        received: dict[str, Any] = {"ratio": self._ratio.state(), "receipts": self._receipts.state()}
        path = self._store.save(SavedLearner(self._step.state(), counters, capture_random(), received))
        self._saved_time = time.monotonic()
        self._metrics.checkpoints.inc()
        self._metrics.checkpoint_duration_seconds.set(self._saved_time - start)
        logger.info("checkpoint %s", path.name)
