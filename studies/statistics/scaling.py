"""How the best batch and learning rate depend on updates per step: power laws with intervals.

Source: Rybkin et al. 2025 (arXiv 2502.04327). The steps: make returns monotone by isotonic regression, find the data that each
setting needs to reach a threshold, resample seeds, take the log-mean of the winners, and fit on the log error. With two
parameters, that fit is a linear regression of logarithms and needs no optimizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize

from studies.statistics.aggregates import Floats
from studies.statistics.intervals import CONFIDENCE, Interval

RESAMPLES = 100  # as in the source


class PowerLaw(NamedTuple):
    """best = coefficient * x ** exponent, with intervals over seeds, and the best at each x."""

    coefficient: Interval
    exponent: Interval
    best: tuple[float, ...]  # log-mean of the winners at each x


def data_to_threshold(env_steps: Floats, returns: Floats, threshold: float) -> float:
    """The env steps after which a monotone fit of returns first reaches a threshold; infinity if it never does.

    Args:
        env_steps, returns: float64[T]: a learning curve. The fit is linear between two points.
    """
    fit = np.asarray(optimize.isotonic_regression(returns).x)
    reached = np.flatnonzero(fit >= threshold)
    if not len(reached):
        return float("inf")
    first = int(reached[0])
    if first == 0:
        return float(env_steps[0])
    share = (threshold - fit[first - 1]) / (fit[first] - fit[first - 1])
    return float(env_steps[first - 1] + share * (env_steps[first] - env_steps[first - 1]))


def common_threshold(best_returns: Sequence[float], share: float = 0.8) -> float:
    """The highest return that this share of runs reached. Args: best_returns: the highest of each run's monotone fit."""
    return float(np.quantile(best_returns, 1 - share, method="lower"))


def fit_best(
    x: Sequence[float], values: Sequence[float], needed: Floats, resamples: int = RESAMPLES, seed: int = 0
) -> PowerLaw:
    """Fits the best value of a setting as a power of x.

    For each resample of the seeds, the winner at each x is the value whose median seed needs least data. It is a median because
    a seed that never reaches the threshold needs infinite data. If no value takes half of a resample's seeds to the threshold,
    that resample has no winner, and another one is drawn.

    Args:
        x: float[X], such as updates per step.
        values: float[V], the values tried, such as batch sizes.
        needed: float64[X, V, S], env steps to the threshold; infinite if a seed did not reach it.

    Raises:
        ValueError: fewer than two x, values or seeds, numbers that are not positive, or an x at which no value takes half of
            the seeds to the threshold.
    """
    if min(len(x), len(values), needed.shape[2]) < 2 or min(*x, *values) <= 0:
        raise ValueError("a power law needs two x, two values and two seeds or more, all x and values above 0")
    log_x, log_values = np.log(np.asarray(x, np.float64)), np.log(np.asarray(values, np.float64))
    if not np.isfinite(np.median(needed, axis=2).min(axis=1)).all():
        raise ValueError("at one x no value takes half of the seeds to the threshold: choose a lower one, or run for longer")
    generator = np.random.default_rng(seed)
    seeds = needed.shape[2]
    winners, fits = np.empty((resamples, len(x))), np.empty((resamples, 2))
    row = 0
    while row < resamples:
        medians = np.median(needed[:, :, generator.integers(0, seeds, seeds)], axis=2)
        if np.isfinite(medians.min(axis=1)).all():
            winners[row] = log_values[medians.argmin(axis=1)]
            fits[row] = np.polyfit(log_x, winners[row], 1)
            row += 1
    exponent, intercept = np.polyfit(log_x, winners.mean(axis=0), 1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(fits, [tail, 1 - tail], axis=0)
    return PowerLaw(
        coefficient=Interval(float(np.exp(intercept)), float(np.exp(low[1])), float(np.exp(high[1]))),
        exponent=Interval(float(exponent), float(low[0]), float(high[0])),
        best=tuple(np.exp(winners.mean(axis=0)).tolist()),
    )
