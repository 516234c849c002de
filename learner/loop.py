"""The learner's loop: take what the ratio wants, make the updates that are due; now and then publish, save and report."""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from typing import NamedTuple

from learner.algorithm.update import UpdateStep
from learner.batches import Batches
from learner.block import Updates
from learner.ending import RunEnd
from learner.filling import Filling
from learner.intake import Intake
from learner.publisher import Publisher
from learner.ratio import Ratio
from learner.reporting import Reporter
from learner.saving import Saver
from sbrl.config import Config
from sbrl.coordination.fleet import RunState
from sbrl.coordination.membership import FleetMember
from sbrl.v1.fleet_pb2 import (
    LEARNER_STATE_FILLING,
    LEARNER_STATE_TRAINING,
    LEARNER_STATE_WAITING,
    LEARNER_STATE_WARMING,
    LearnerState,
)

logger = logging.getLogger(__name__)

STOPPED_SECONDS = 10.0  # a lease's time: a process that made no step for so long may have lost its place
WAIT_SECONDS = 0.5  # longest wait for transitions before looking at what else there is to do


class Parts(NamedTuple):
    """What the loop works with; made, and closed, by its caller."""

    step: UpdateStep
    intake: Intake
    ratio: Ratio
    batches: Batches
    updates: Updates
    filling: Filling
    end: RunEnd
    publisher: Publisher
    saver: Saver
    reporter: Reporter


class LearnerLoop:
    """Trains until the run's samples are trained or `stop` is set."""

    def __init__(self, config: Config, parts: Parts, member: FleetMember, stop: threading.Event) -> None:
        self._config, self._parts, self._member, self._stop = config, parts, member, stop
        self._is_ending = self._publication_due = False

    @property
    def state(self) -> LearnerState:
        """What it does now."""
        parts = self._parts
        if not parts.filling.is_enough:
            return LEARNER_STATE_FILLING
        if parts.ratio.due <= 0:
            return LEARNER_STATE_WARMING
        return LEARNER_STATE_TRAINING if parts.ratio.updates_due else LEARNER_STATE_WAITING

    def run(self) -> bool:
        """Trains; returns whether the run's samples are all trained (rather than: told to stop).

        Raises:
            StaleEpochError: another learner has taken over.
            FinalError: the loss or the network is not finite.
        """
        parts, last = self._parts, time.monotonic()
        while not self._stop.is_set():
            self._member.check_fenced()
            with parts.reporter.phase("receive"):
                parts.intake.settle(self._member.instructions.ended_actors)
                parts.intake.take()
            if self._may_train():
                self._train()
            elif self._is_ending:
                return True
            else:
                with parts.reporter.phase("wait"):
                    parts.intake.wait(WAIT_SECONDS)
            now = time.monotonic()
            if now - last > STOPPED_SECONDS:
                parts.saver.hold_until(partial(self._member.has_exchanged_since, now))
            last = now
            self._publish_if_due()
            parts.filling.look(now)
            self._is_ending = self._member.instructions.state is not RunState.RUNNING and parts.end.is_reached(now)
            parts.reporter.report_if_due(now, self.state)
            parts.saver.save_if_due(now)
        return False

    def publish(self) -> None:
        """Hands a copy of the weights to act with to the publisher, which looks at them before it sends them."""
        step = self._parts.step
        with self._parts.reporter.phase("publish"):
            self._parts.publisher.publish(step.acting_weights(), step.mark, step.updates)
        self._publication_due = False

    def _publish_if_due(self) -> None:
        """Only when the last weights are delivered: until then newer ones are made.

        Raises:
            FinalError: the last ones were not finite, or what they were made from was not.
        """
        publisher = self._parts.publisher
        if not publisher.is_finite:
            self._parts.reporter.diverge("the loss or the network is not finite")
        if self._publication_due and publisher.is_idle:
            self.publish()

    def _may_train(self) -> bool:
        ratio = self._parts.ratio
        if not (self._parts.filling.is_enough and self._parts.batches.is_ready):
            return False
        return ratio.updates_due > 0 or (self._is_ending and ratio.last_update_due)

    def _train(self) -> None:
        parts, period = self._parts, self._config.learner.publish_period
        most = min(max(1, parts.ratio.updates_due), period - parts.step.updates % period)
        trained = parts.updates.run(most, parts.reporter.phase)
        if trained is None:  # sampled from Reverb, which has none ready
            return
        parts.ratio.train(trained.updates)
        parts.reporter.trained(trained.drawn, trained.result)
        self._publication_due |= parts.step.updates % period == 0
        self._publish_if_due()
