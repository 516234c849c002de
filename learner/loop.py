"""The learner's loop: take what the ratio wants, make the updates that are due. All else it does is hooked to its rounds."""

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

WAIT_SECONDS = 0.5  # longest wait for transitions before looking at what else there is to do


class Round(NamedTuple):
    """What one turn of the loop came to."""

    time: float  # of the monotonic clock, seconds
    trained: Trained | None  # the updates it made, if any
    state: LearnerState


Hook = Callable[[Round], None]  # called after each round; what it raises ends training


class Training:
    """What a learner trains from, and the rounds in which it does."""

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
            updates_to_edge: at most so many updates are made before the hooks are called.
            nothing_comes: whether there is nothing more to receive, at a time of the monotonic clock in seconds; asked once the
                run collects no more.
            phase: takes the time of what it is told the name of: receive, wait, sample, update.
        """
        self._intake, self._ratio, self._batches = replay.intake, replay.ratio, replay.batches
        self._updates, self._filling = updates, filling
        self._member, self._updates_to_edge, self._nothing_comes, self._phase = member, updates_to_edge, nothing_comes, phase

    @property
    def state(self) -> LearnerState:
        """What the learner does now."""
        if not self._filling.is_enough:
            return LEARNER_STATE_FILLING
        if self._ratio.due <= 0:
            return LEARNER_STATE_WARMING
        return LEARNER_STATE_TRAINING if self._ratio.updates_due else LEARNER_STATE_WAITING

    def rounds(self) -> Iterator[Round]:
        """Trains, a round at a time, until all samples of the run are trained.

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
                if trained is not None:  # else: sampled from Reverb, which has none ready
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
    """Trains, with the hooks called after each round; whether the run's samples are all trained (rather than: told to stop).

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
