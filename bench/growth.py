"""The growth rate of a process's memory, with its interval. Pure: from a series of readings to a slope."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MEGABYTE = 1e6
HOUR = 3600.0
LEVEL = 0.95
WEEK_HOURS = 24 * 7


class MemoryReading(NamedTuple):
    """Resident memory of one process at one time."""

    seconds: float
    name: str  # the role's name: replay-0
    process_id: int
    bytes: float


class Growth(NamedTuple):
    """The growth of one role's memory after warm-up."""

    name: str
    readings: int
    hours: float
    first: float  # median of the first tenth, bytes
    last: float  # median of the last tenth, bytes
    slope: float  # bytes per hour
    low: float  # ends of the slope's interval
    high: float

    @property
    def is_flat(self) -> bool:
        """Whether no growth is seen, or so little that a week would add less than a tenth."""
        return self.low <= 0 or self._is_bounded

    @property
    def verdict(self) -> str:
        """The verdict in words. It says if memory fluctuates so much that the interval could hide a tenth of growth a week."""
        if self._is_bounded:
            return "flat"
        return "no growth seen" if self.is_flat else "GROWS"

    @property
    def _is_bounded(self) -> bool:
        return self.high * WEEK_HOURS < 0.1 * self.last


def series(
    readings: Iterable[MemoryReading], name: str, after: float, before: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(seconds, bytes) of a role between two times. Only of its longest-lived process: a new process starts small."""
    by_process: dict[int, list[MemoryReading]] = {}
    for one in readings:
        if one.name == name and after <= one.seconds <= before:
            by_process.setdefault(one.process_id, []).append(one)
    longest = max(by_process.values(), key=lambda found: found[-1].seconds - found[0].seconds, default=[])
    return np.array([one.seconds for one in longest]), np.array([one.bytes for one in longest])


def theil_sen(x: NDArray[np.float64], *series: NDArray[np.float64]) -> list[float]:
    """For each series over `x`, the median of the slopes between all pairs. A jump or a few outliers do not move it."""
    first, second = np.triu_indices(len(x), 1)
    apart = x[second] - x[first]
    return [float(np.median((y[second] - y[first]) / apart)) for y in series]


def growth(
    name: str, seconds: NDArray[np.float64], values: NDArray[np.float64], block_seconds: float = 1200.0, samples: int = 500
) -> Growth:
    """The Theil-Sen slope, with an interval from a moving-block bootstrap of the residuals.

    Neighbouring readings are correlated (memory comes and goes with checkpoints and evaluations). So residuals are drawn in
    blocks of `block_seconds`: treated as independent, they would give an interval that is far too narrow.

    Args:
        seconds, values: at least ten readings, in order.
        samples: number of bootstrap samples.
    """
    if len(seconds) < 10:
        raise ValueError(f"{len(seconds)} readings of {name} after warm-up: a slope needs ten at least")
    keep = np.linspace(0, len(seconds) - 1, min(len(seconds), 150)).astype(int)  # the number of pairs grows quadratically
    x, y = seconds[keep], values[keep]
    (slope,) = theil_sen(x, y)
    trend = slope * (x - x[0])
    length = max(1, min(len(x) // 4, round(block_seconds / float(np.median(np.diff(x))))))
    blocks = len(x) / length
    # A line fitted to few blocks follows their fluctuations, which makes the residuals too small.
    residuals = (y - trend) * (blocks / (blocks - 2)) ** 0.5
    generator = np.random.default_rng(0)
    drawn = []
    for _ in range(samples):
        starts = generator.integers(0, len(x) - length + 1, size=-(-len(x) // length))
        joined = np.concatenate([residuals[start : start + length] for start in starts])
        drawn.append(trend + joined[: len(x)])
    low, high = np.quantile(theil_sen(x, *drawn), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    tenth = max(1, len(values) // 10)
    return Growth(
        name=name,
        readings=len(seconds),
        hours=float(seconds[-1] - seconds[0]) / HOUR,
        first=float(np.median(values[:tenth])),
        last=float(np.median(values[-tenth:])),
        slope=slope * HOUR,
        low=float(low) * HOUR,
        high=float(high) * HOUR,
    )


def table(found: Sequence[Growth]) -> str:
    """The growths as a Markdown table."""
    lines = ["| role | readings | hours | MB at first | MB at last | MB an hour | 95 % interval | |", "|---" * 8 + "|"]
    for one in found:
        megabytes = [f"{value / MEGABYTE:,.1f}" for value in (one.first, one.last)]
        slope, low, high = (f"{value / MEGABYTE:+.2f}" for value in (one.slope, one.low, one.high))
        cells = [one.name, str(one.readings), f"{one.hours:.2f}", *megabytes, slope, f"{low} to {high}", one.verdict]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
