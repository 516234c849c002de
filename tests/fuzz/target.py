"""Feeding wrong inputs to whatever reads bytes that others wrote, and what may come of it: an answer or a clear refusal."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol

SLOW_SECONDS = 5.0  # longer for one input is a hang
LONG_MESSAGE = 20_000  # characters: no refusal for a person to read


class Refusal(Exception):
    """The reader refused an input as it should."""


class Target(Protocol):
    """One reader, or one service."""

    @property
    def name(self) -> str: ...

    def make(self, chance: random.Random) -> bytes:
        """An input, as what is written to disk if it brings the reader down."""
        ...

    def feed(self, data: bytes) -> None:
        """Gives it to the reader.

        Raises:
            Refusal: it was refused as it should be. Anything else is a failure.
        """
        ...

    def check(self) -> None:
        """Whether all is well still; raises what is not."""
        ...


class Failure(NamedTuple):
    """An input that the reader could not take."""

    number: int
    data: bytes
    what: str


class Report(NamedTuple):
    """What came of a target's inputs."""

    name: str
    inputs: int
    accepted: int
    refused: int
    slowest_seconds: float
    failures: list[Failure]


def run_target(
    target: Target,
    inputs: int,
    seed: int,
    limit: Callable[[], AbstractContextManager[None]] = nullcontext,
    tell: Callable[[int], None] = lambda done: None,
    most_failures: int = 10,
) -> Report:
    """Feeds `inputs` inputs, the same for the same seed.

    Args:
        limit: a context in which one input is read, which raises if that takes for ever.
        most_failures: after so many it stops.
    """
    chance = random.Random(f"{target.name} {seed}")
    accepted = refused = 0
    slowest = 0.0
    failures: list[Failure] = []
    number = 0
    for number in range(inputs):
        data = target.make(chance)
        start = time.perf_counter()
        try:
            with limit():
                target.feed(data)
            accepted += 1
        except Refusal as refusal:
            refused += 1
            if not 0 < len(str(refusal)) <= LONG_MESSAGE:
                failures.append(Failure(number, data, f"a refusal of {len(str(refusal))} characters: {str(refusal)[:200]}"))
        except Exception:
            failures.append(Failure(number, data, traceback.format_exc(limit=-6)))
        took = time.perf_counter() - start
        slowest = max(slowest, took)
        if took > SLOW_SECONDS:
            failures.append(Failure(number, data, f"it took {took:.1f} s"))
        if len(failures) >= most_failures:
            break
        tell(number + 1)
    try:
        target.check()
    except Exception:
        failures.append(Failure(number, b"", f"afterwards: {traceback.format_exc(limit=-6)}"))
    return Report(target.name, number + 1, accepted, refused, slowest, failures)


def only(*kinds: type[Exception]) -> AbstractContextManager[None]:
    """What is raised of these kinds within is a refusal."""
    return _Only(kinds)


class _Only(AbstractContextManager[None]):
    def __init__(self, kinds: tuple[type[Exception], ...]) -> None:
        self._kinds = kinds

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, self._kinds):
            raise Refusal(str(error)) from None
