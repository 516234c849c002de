"""Feeds wrong inputs to a reader of foreign bytes. The only allowed results are an answer and a clear refusal."""

from __future__ import annotations

import itertools
import random
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

SLOW_SECONDS = 5.0  # a longer time for one input is a hang
LONG_MESSAGE = 20_000  # characters; a longer refusal is unreadable


class Refusal(Exception):
    """The reader refused an input correctly."""


class Target(Protocol):
    """One reader, or one service."""

    @property
    def name(self) -> str: ...

    def make(self, chance: random.Random) -> bytes:
        """An input, in the form in which it is written to disk if it crashes the reader."""
        ...

    def feed(self, data: bytes) -> None:
        """Gives it to the reader.

        Raises:
            Refusal: it was refused correctly. Any other exception is a failure.
        """
        ...

    def check(self) -> None:
        """Raises if something is broken afterwards."""
        ...


class Failure(NamedTuple):
    """An input that crashed the reader, minimized by Hypothesis."""

    data: bytes
    what: str


class Report(NamedTuple):
    """The results of a target's inputs."""

    name: str
    inputs: int  # all different
    accepted: int
    refused: int
    slowest_seconds: float
    failure: Failure | None


# If Hypothesis draws each choice, it can shrink inputs, but repeats the same few. If it draws only the seed, hardly any inputs
# are equal. So use both.
CHANCES = st.randoms(use_true_random=True) | st.randoms(use_true_random=False)
ROUND = 1000  # inputs of one search
KNOWN = 20  # a search begins with the simplest inputs, which the previous one has already fed


def run_target(
    target: Target,
    inputs: int,
    seed: int,
    limit: Callable[[], AbstractContextManager[None]] = nullcontext,
    tell: Callable[[int], None] = lambda done: None,
) -> Report:
    """Lets Hypothesis draw `inputs` different inputs from a seed, and feeds them; stops at the first failure.

    Args:
        limit: a context for reading one input, which raises if that takes for ever.
    """
    feeder = _Feeder(target, inputs, limit, tell)
    for number in itertools.count():
        before = feeder.inputs
        draws = min(ROUND, inputs - before + KNOWN)
        if not _search(feeder, f"{target.name} {seed} {number}", draws) or feeder.inputs in (before, inputs):
            break
    failure = feeder.failure
    try:
        target.check()
    except Exception:
        failure = failure or Failure(b"", f"afterwards: {traceback.format_exc(limit=-6)}")
    return Report(target.name, feeder.inputs, feeder.accepted, feeder.refused, feeder.slowest_seconds, failure)


def _search(feeder: _Feeder, seed: str, draws: int) -> bool:
    """Runs one search; returns whether there was no failure."""

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=draws,
        database=None,  # do not try earlier findings first
        deadline=None,  # some inputs are slow to make
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(CHANCES)
    def search(chance: random.Random) -> None:
        feeder.feed(chance)

    try:
        search()
    except Exception:
        # A failure of the target, already noted. Or Hypothesis says that it is flaky, as in a server with state.
        if feeder.failure is None:
            raise
        return False
    return True


class _Feeder:
    """Feeds a target new inputs, and counts them."""

    def __init__(
        self, target: Target, most: int, limit: Callable[[], AbstractContextManager[None]], tell: Callable[[int], None]
    ) -> None:
        """Args: most: the largest number of different inputs."""
        self._target, self._most, self._limit, self._tell = target, most, limit, tell
        self._seen: set[bytes] = set()
        self.accepted = self.refused = 0
        self.slowest_seconds = 0.0
        self.failure: Failure | None = None  # the newest, which is the smallest

    @property
    def inputs(self) -> int:
        return len(self._seen)

    def feed(self, chance: random.Random) -> None:
        """
        Raises:
            Exception: the result is neither an answer nor a clear refusal.
        """
        data = self._target.make(chance)
        is_new = data not in self._seen
        if self.failure is None and (self.inputs == self._most or not is_new):
            return
        self._seen.add(data)
        try:
            accepted = self._feed(data)
        except Exception:
            self.failure = Failure(data, traceback.format_exc(limit=-6))
            raise
        if is_new:
            self.accepted += accepted
            self.refused += not accepted
            self._tell(self.inputs)

    def _feed(self, data: bytes) -> bool:
        start = time.perf_counter()
        refusal: str | None = None
        try:
            with self._limit():
                self._target.feed(data)
        except Refusal as raised:
            refusal = str(raised)
        took = time.perf_counter() - start
        self.slowest_seconds = max(self.slowest_seconds, took)
        assert took <= SLOW_SECONDS, f"it took {took:.1f} s"
        if refusal is not None:
            assert 0 < len(refusal) <= LONG_MESSAGE, f"a refusal of {len(refusal)} characters: {refusal[:200]}"
        return refusal is None


def only(*kinds: type[Exception]) -> AbstractContextManager[None]:
    """Within the context, turns exceptions of these kinds into refusals."""
    return _Only(kinds)


class _Only(AbstractContextManager[None]):
    def __init__(self, kinds: tuple[type[Exception], ...]) -> None:
        self._kinds = kinds

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, self._kinds):
            raise Refusal(str(error)) from None
