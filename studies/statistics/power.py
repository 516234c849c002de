"""The difference that a number of seeds can show, before they are run.

Uses the noncentral t distribution for two arms with equal numbers of seeds (Cohen 1988, chapter 2), with the variance of an IQM
of normal scores instead of a mean's. This approximates the verdict; `scripts/verdict_rates.py` simulates the verdict itself.
"""

from __future__ import annotations

import math

from scipy import optimize, stats

# Variance of a 25 % trimmed mean over that of a mean, for many normal values: (2 int_0^q x^2 phi + q^2 / 2) / 0.25, q = 0.6745.
IQM_VARIANCE = 1.195
LARGEST = 1000  # most seeds considered


def power(difference: float, deviation: float, seeds: int, environments: int = 1, arms: int = 1, alpha: float = 0.05) -> float:
    """The probability of showing a true difference of IQMs, one-sided.

    Args:
        difference: of the arms' IQMs, on the scale of the scores.
        deviation: standard deviation of a score over seeds, on the same scale.
        seeds: number per arm.
        arms: number of arms compared with the baseline. Each is tested at alpha / arms (Bonferroni, the worst case of Holm).

    Raises:
        ValueError: fewer than two seeds, or a deviation that is not positive.
    """
    if seeds < 2 or deviation <= 0:
        raise ValueError(f"power needs two seeds or more and a deviation above 0, not {seeds} and {deviation}")
    error = deviation * math.sqrt(2 * IQM_VARIANCE / (seeds * environments))
    freedom = 2 * environments * (seeds - 1)
    return float(stats.nct.sf(stats.t.isf(alpha / arms, freedom), freedom, difference / error))


def detectable_difference(
    deviation: float, seeds: int, environments: int = 1, arms: int = 1, alpha: float = 0.05, wanted: float = 0.8
) -> float:
    """The smallest true difference that is shown with a power of `wanted`. Arguments and errors as in `power`."""

    def missing(difference: float) -> float:
        return power(difference, deviation, seeds, environments, arms, alpha) - wanted

    high = deviation
    while missing(high) < 0:
        high *= 2
    return float(optimize.brentq(missing, 0.0, high))


def seeds_needed(
    difference: float, deviation: float, environments: int = 1, arms: int = 1, alpha: float = 0.05, wanted: float = 0.8
) -> int | None:
    """The fewest seeds per arm that show a difference with a power of `wanted`; None: over a thousand, or no difference."""
    if difference <= 0:
        return None
    return next(
        (n for n in range(2, LARGEST + 1) if power(difference, deviation, n, environments, arms, alpha) >= wanted), None
    )
