"""Intervals by the stratified bootstrap: seeds are drawn again within each environment, environments stay.

Source: Agarwal et al. 2021; percentile intervals, as rliable has them. With few seeds they are too narrow (with 5, a 95 %
interval of a mean holds it in about 85 % of studies), so the verdict rests on permutation tests (`sequential`), not on these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from studies.statistics.aggregates import Floats, iqm

RESAMPLES = 2000
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """An estimate with the bounds of its interval."""

    estimate: float
    low: float
    high: float


def bootstrap(
    statistic: Callable[..., Floats],
    *samples: Floats,
    paired: bool = False,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """The statistic of some samples of runs, with its interval.

    Args:
        statistic: takes as many arrays as there are samples, float64[..., S, E], and returns float64[...].
        samples: float64[S, E] each.
        paired: the samples are of the same seeds, row by row, and a seed is drawn for all of them together.
        seed: of the resampling: the same input gives the same interval.

    Raises:
        ValueError: a sample has fewer than two seeds, which says nothing about others; or pairs do not match.
    """
    if min(len(sample) for sample in samples) < 2:
        raise ValueError("an interval needs two seeds or more")
    if paired and len({sample.shape for sample in samples}) > 1:
        raise ValueError(f"pairs need samples of one shape, not {[sample.shape for sample in samples]}")
    generator = np.random.default_rng(seed)
    drawn: list[Floats] = []
    indices = None
    for sample in samples:
        if indices is None or not paired:
            indices = generator.integers(0, len(sample), (resamples, *sample.shape))
        drawn.append(np.take_along_axis(sample[None], indices, axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(statistic(*drawn), [tail, 1 - tail])
    return Interval(float(statistic(*samples)), float(low), float(high))


def iqm_difference(x: Floats, y: Floats) -> Floats:
    """IQM of x minus IQM of y: float64[..., S, E] twice -> float64[...]."""
    return iqm(x) - iqm(y)


def curve_intervals(scores: Floats, resamples: int = RESAMPLES, seed: int = 0) -> tuple[Interval, ...]:
    """A sample-efficiency curve: the IQM at each of T steps, with pointwise intervals.

    Args:
        scores: float64[S, E, T].
    """
    return tuple(bootstrap(iqm, scores[:, :, step], resamples=resamples, seed=seed) for step in range(scores.shape[2]))


def profile_intervals(scores: Floats, thresholds: Floats, resamples: int = RESAMPLES, seed: int = 0) -> tuple[Interval, ...]:
    """A performance profile, the share of runs above each threshold, with pointwise intervals.

    Args:
        scores: float64[S, E].
        thresholds: float64[T].
    """

    def share_above(threshold: float) -> Callable[[Floats], Floats]:
        return lambda drawn: np.asarray((drawn > threshold).mean((-2, -1)))

    return tuple(bootstrap(share_above(value), scores, resamples=resamples, seed=seed) for value in thresholds.tolist())
