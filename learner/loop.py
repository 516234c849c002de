"""The learner's loop: take what the ratio wants, make the updates that are due, call the hooks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from learner.block import Phase, Trained, Updates
from learner.filling import Filling
from learner.replay import Replay
from sbrl.coordination.fleet import RunState
from sbrl.coordination.membership import FleetMember
from sbrl.v1.fleet_pb2 import (
    LEARNER_STATE_FILLING,
    LEARNER_STATE_TRAINING,
    LEARNER_STATE_WAITING,
    LEARNER_STATE_WARMING,
    LearnerState,
)

WAIT_SECONDS = 0.5  # longest wait for transitions before the loop turns to its other work


class Round(NamedTuple):
    """The outcome of one turn of the loop."""

    time: float  # of the monotonic clock, seconds
    trained: Trained | None  # the updates it made, if any
    state: LearnerState


Hook = Callable[[Round], None]  # called after each round; an exception from it ends training


class Training:
    """The learner's rounds of receiving and training."""

    def __init__(
        self,
        *,
        replay: Replay,
        updates: Updates,
        filling: Filling,
        member: FleetMember,
        updates_to_edge: Callable[[], int],
        nothing_comes: Callable[[float], bool],
        phase: Phase,
    ) -> None:
        """
        Args:
            updates_to_edge: the most updates to make before the hooks are called.
            nothing_comes: whether nothing more will arrive, given the time of the monotonic clock in seconds. Called once the
                run has stopped collecting.
            phase: times the phase that it gets the name of: receive, wait, sample, update.
        """
        self._intake, self._ratio, self._batches = replay.intake, replay.ratio, replay.batches
        self._updates, self._filling = updates, filling
        self._member, self._updates_to_edge, self._nothing_comes, self._phase = member, updates_to_edge, nothing_comes, phase

    @property
    def state(self) -> LearnerState:
        """The learner's present state."""
        if not self._filling.is_enough:
            return LEARNER_STATE_FILLING
        if self._ratio.due <= 0:
            return LEARNER_STATE_WARMING
        return LEARNER_STATE_TRAINING if self._ratio.updates_due else LEARNER_STATE_WAITING

    def rounds(self) -> Iterator[Round]:
        """Trains, one round at a time, until all samples of the run are trained.

        Raises:
            StaleTermError: another learner has taken over.
        """
        is_ending = False
        while True:
            self._member.check_fenced()
            with self._phase("receive"):
                self._intake.settle(self._member.instructions.ended_actors)
                self._intake.take()
            trained = None
            if self._may_train(is_ending):
                trained = self._updates.run(min(max(1, self._ratio.updates_due), self._updates_to_edge()), self._phase)
                if trained is not None:  # None: Reverb had no batch ready
                    self._ratio.train(trained.updates)
            elif is_ending:
                return
            else:
                with self._phase("wait"):
                    self._intake.wait(WAIT_SECONDS)
            now = time.monotonic()
            yield Round(now, trained, self.state)
            is_ending = self._member.instructions.state is not RunState.RUNNING and self._nothing_comes(now)

    def _may_train(self, is_ending: bool) -> bool:
        if not (self._filling.is_enough and self._batches.is_ready):
            return False
        return self._ratio.updates_due > 0 or (is_ending and self._ratio.last_update_due)


def train(training: Training, stop: threading.Event, *hooks: Hook) -> bool:
    """Trains and calls the hooks after each round; returns True if all samples are trained, False if `stop` was set.

    Raises:
        StaleTermError: another learner has taken over.
        FinalError: the loss or the network is not finite.
    """
    rounds = training.rounds()
    while not stop.is_set():
        done = next(rounds, None)
        if done is None:
            return True
        for hook in hooks:
            hook(done)
    return False
