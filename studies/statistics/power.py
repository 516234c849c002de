"""What difference so many seeds can show, before they are run.

From the noncentral t distribution, for two arms of as many seeds each (Cohen 1988, chapter 2), with the variance of an IQM of
normal scores in place of a mean's. `scripts/verdict_rates.py` simulates the verdict itself, of which this is an approximation.
"""

from __future__ import annotations

import math

from scipy import optimize, stats

# Variance of a 25 % trimmed mean over a mean's, of many normal values: (2 int_0^q x^2 phi + q^2 / 2) / 0.25, q = 0.6745.
IQM_VARIANCE = 1.195
LARGEST = 1000  # seeds: more is not asked for


def power(difference: float, deviation: float, seeds: int, environments: int = 1, arms: int = 1, alpha: float = 0.05) -> float:
    """The probability of showing a true difference of IQMs, one-sided.

    Args:
        difference: of the arms' IQMs, on the scale of the scores.
        deviation: standard deviation of a score over seeds, on the same scale.
        seeds: of each arm.
        arms: that are compared with the baseline; each is tested at alpha / arms (Bonferroni, the worst case of Holm).

    Raises:
        ValueError: fewer than two seeds, or a deviation that is not above 0.
    """
    if seeds < 2 or deviation <= 0:
        raise ValueError(f"power needs two seeds or more and a deviation above 0, not {seeds} and {deviation}")
    error = deviation * math.sqrt(2 * IQM_VARIANCE / (seeds * environments))
    freedom = 2 * environments * (seeds - 1)
    return float(stats.nct.sf(stats.t.isf(alpha / arms, freedom), freedom, difference / error))


def detectable_difference(
    deviation: float, seeds: int, environments: int = 1, arms: int = 1, alpha: float = 0.05, wanted: float = 0.8
) -> float:
    """The smallest true difference that is shown with a power of `wanted`. Arguments and errors as for `power`."""

    def missing(difference: float) -> float:
        return power(difference, deviation, seeds, environments, arms, alpha) - wanted

    high = deviation
    while missing(high) < 0:
        high *= 2
    return float(optimize.brentq(missing, 0.0, high))


def seeds_needed(
    difference: float, deviation: float, environments: int = 1, arms: int = 1, alpha: float = 0.05, wanted: float = 0.8
) -> int | None:
    """The fewest seeds an arm that show a difference with a power of `wanted`; None: more than a thousand, or no difference."""
    if difference <= 0:
        return None
    return next(
        (n for n in range(2, LARGEST + 1) if power(difference, deviation, n, environments, arms, alpha) >= wanted), None
    )
