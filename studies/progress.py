"""A study's progress, from the logs of its runs, and the time until it is done."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from sbrl.monitor.readable import duration

LINE_SECONDS = 30.0
TAIL_BYTES = 4096
_STEPS = re.compile(r"^([\d,]+)/([\d,]+) steps", re.MULTILINE)  # in the lines of sbrl.monitor.view.PlainView


class StudyProgress:
    """Counts the work of this call. Each run has a weight: roughly its cost, in any unit."""

    def __init__(
        self,
        weights: Mapping[str, float],
        finished_before: int,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args: weights: by name, of the runs to make. finished_before: number of runs that were done before."""
        self._weights, self._say, self._clock = dict(weights), say, clock
        self._finished, self._failed, self._total = finished_before, 0, finished_before + len(weights)
        self._ended = 0.0
        self._start = self._last_line = clock()

    def end(self, name: str, failed: bool) -> None:
        """Counts a run as done, whether it failed or not."""
        self._ended += self._weights[name]
        self._finished += 1
        self._failed += failed
        self._show({})

    def look(self, at_work: Mapping[str, Path]) -> None:
        """Prints a line now and then. Args: at_work: logs by the run's name."""
        if at_work and self._clock() - self._last_line >= LINE_SECONDS:
            self._show(at_work)

    def _show(self, at_work: Mapping[str, Path]) -> None:
        self._last_line = self._clock()
        shares = {name: share_done(log) for name, log in at_work.items()}
        done = self._ended + sum(self._weights[name] * share for name, share in shares.items())
        elapsed, total = self._clock() - self._start, sum(self._weights.values())
        left = elapsed * (total - done) / done if done > 0 else None
        failed = f", {self._failed} failed" if self._failed else ""
        working = "".join(f"; {name} {share:.0%}" for name, share in shares.items())
        self._say(
            f"{self._finished}/{self._total} runs are done{failed}, {duration(elapsed)} so far, "
            f"{'ETA ' + duration(left) if self._finished < self._total else 'all of them'}{working}"
        )


def share_done(log: Path) -> float:
    """The share of env steps collected, 0 to 1, according to the newest line of a run's log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
            steps = _STEPS.findall(file.read().decode(errors="replace"))
    except OSError:  # the run has not started
        return 0.0
    done, total = (int(number.replace(",", "")) for number in steps[-1]) if steps else (0, 1)
    return done / total
