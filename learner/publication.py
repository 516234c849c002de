"""When the learner publishes weights: every `publish_period` updates, once the previous ones are delivered."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from learner.algorithm.update import UpdateStep
from learner.block import Phase
from learner.loop import Round
from learner.publisher import Publisher


class Publications:
    """Gives copies of the acting weights to the publisher, which checks that they are finite before it sends them."""

    def __init__(
        self, step: UpdateStep, publisher: Publisher, period: int, phase: Phase, diverge: Callable[[str], NoReturn]
    ) -> None:
        """
        Args:
            period: in updates.
            diverge: ends training; its argument says what is not finite.
        """
        self._step, self._publisher, self._period, self._phase, self._diverge = step, publisher, period, phase, diverge
        self._is_due = False

    def updates_to_edge(self) -> int:
        """Updates until the next publication."""
        return self._period - self._step.updates % self._period

    def publish(self) -> None:
        """Copies the current weights and gives them to the publisher."""
        with self._phase("publish"):
            self._publisher.publish(self._step.acting_weights(), self._step.not_finite, self._step.updates)
        self._is_due = False

    def publish_if_due(self, done: Round) -> None:
        """After a round: publishes if a publication is due and the previous weights are delivered.

        A publication that waits for the previous one sends the newest weights, not those of when it became due.

        Raises:
            FinalError: the last weights, or the losses or data that they were trained with, were not finite.
        """
        self._is_due |= done.trained is not None and self._step.updates % self._period == 0
        if self._is_due and self._publisher.is_idle:
            self.publish()
        if not self._publisher.is_finite:
            self._diverge("the loss or the network is not finite")
