"""A benchmark's progress, and the time until it is done."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping

from sbrl.monitor.readable import duration

LINE_SECONDS = 10.0
Tick = Callable[[float], None]  # called with the share of a part that is done, 0 to 1


def silent(share: float) -> None:
    """A tick that does nothing."""


class Progress:
    """Prints a line now and then on standard error."""

    def __init__(
        self,
        seconds: Mapping[str, float],
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args: seconds: the expected time of each part, in order."""
        self._seconds, self._say, self._clock = dict(seconds), say, clock
        self._start = self._last_line = clock()
        self._done: list[str] = []

    def part(self, name: str) -> Tick:
        """Begins a part. Earlier parts count as done."""
        before = sum(self._seconds[done] for done in self._done)
        self._done.append(name)
        start, total = self._clock(), sum(self._seconds.values())
        self._say(f"bench: {name}, part {len(self._done)} of {len(self._seconds)}; ETA {duration(self._left(before, total))}")

        def tick(share: float) -> None:
            now = self._clock()
            if now - self._last_line < LINE_SECONDS or not 0 < share < 1:
                return
            self._last_line = now
            later = self._left(before + self._seconds[name], total)
            left = (now - start) * (1 - share) / share + later
            self._say(f"bench: {name} {share:.0%}; ETA {duration(left)}")

        return tick

    def _left(self, done: float, total: float) -> float:
        """Seconds left after `done` of `total`, at the pace so far."""
        pace = (self._clock() - self._start) / done if done else 1.0
        return (total - done) * max(1.0, pace)
