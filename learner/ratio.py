"""The update-to-data ratio. The learner holds it: it knows what it received and what it trained on. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self

from sbrl.config import Config

_MOST = 2.0**53  # `due` is a float, in which whole numbers are exact up to this


class RatioSettings(NamedTuple):
    """The settings from now on. A resumed run may have other values than before."""

    min_size: int  # transitions received before the first update
    samples_per_insert: float  # batch size x updates per step
    batch_size: int
    ahead: float  # transitions that may be received beyond those that are trained on

    @classmethod
    def of(cls, config: Config) -> Self:
        return cls(
            min_size=config.min_replay_size,
            samples_per_insert=config.samples_per_insert,
            batch_size=config.learner.batch_size,
            ahead=config.receive_ahead,
        )


class Ratio:
    """Samples due and trained.

        due     = sum, over transitions received after the first `min_size`, of samples_per_insert when each arrived
        update    while trained + batch_size <= due
        receive   while due - trained <= samples_per_insert * ahead, and always until `min_size`

    So the learner is never ahead of the ratio, and while it works it is at most `ahead` transitions behind. A changed ratio
    applies to transitions received from then on.
    """

    def __init__(self, settings: RatioSettings, received: int = 0, due: float = 0.0, trained: int = 0) -> None:
        self._settings = settings
        self.received, self.due, self.trained = received, due, trained

    @classmethod
    def restored(cls, settings: RatioSettings, state: Mapping[str, float]) -> Self:
        """Restores from the `state` in a checkpoint. Raises ValueError if `state` could not have written it."""
        try:
            received, due, trained = int(state["received"]), float(state["due"]), int(state["trained"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"the ratio cannot be read: {type(error).__name__}: {error}") from None
        if not all(0 <= number <= _MOST for number in (received, due, trained)):
            raise ValueError(f"the ratio cannot be of {received} transitions, {due:g} samples due and {trained} trained")
        return cls(settings, received, due, trained)

    def state(self) -> dict[str, float]:
        """What to save."""
        return {"received": self.received, "due": self.due, "trained": self.trained}

    @property
    def batch_size(self) -> int:
        """Samples per update."""
        return self._settings.batch_size

    def receive(self, transitions: int) -> None:
        """Counts transitions that were never received before."""
        after_warm_up = max(0, self.received + transitions - max(self.received, self._settings.min_size))
        self.received += transitions
        self.due += after_warm_up * self._settings.samples_per_insert

    def train(self, updates: int = 1) -> None:
        """Counts updates."""
        self.trained += updates * self._settings.batch_size

    @property
    def updates_due(self) -> int:
        """Number of whole updates that may be made now."""
        return max(0, int((self.due - self.trained) // self._settings.batch_size))

    @property
    def may_receive(self) -> bool:
        """Whether more transitions are wanted."""
        settings = self._settings
        return self.received < settings.min_size or self.due - self.trained <= settings.samples_per_insert * settings.ahead

    @property
    def last_update_due(self) -> bool:
        """If nothing more will arrive: whether one more update brings the ratio nearer to its target."""
        return self.due - self.trained >= self._settings.batch_size / 2

    @property
    def achieved(self) -> float:
        """Samples trained per transition received after warm-up; 0 before."""
        after_warm_up = self.received - self._settings.min_size
        return self.trained / after_warm_up if after_warm_up > 0 else 0.0
