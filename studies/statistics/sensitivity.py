"""The loss from a learning rate or a batch size that is off by some factor.

The best value and the loss beside it never come from the same seeds: the best is chosen on all seeds but one, and the loss is
measured on that one. Otherwise the winner's luck would count as a loss of its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from studies.statistics.aggregates import Floats, iqm
from studies.statistics.intervals import Interval, bootstrap


class Sensitivity(NamedTuple):
    """The loss beside the best value of a setting, on the scale of the scores; None if the grid has no such value."""

    best: float  # over all seeds together
    below: Interval | None  # at best / factor
    above: Interval | None  # at best x factor


def sensitivity(values: Sequence[float], scores: Floats, factor: float = 2.0) -> Sensitivity:
    """
    Args:
        values: of the setting, float[V], all different.
        scores: float64[V, S, E].

    Raises:
        ValueError: fewer than two seeds, or two values.
    """
    if len(values) < 2 or scores.shape[1] < 2:
        raise ValueError("sensitivity needs two values and two seeds or more")
    order = np.argsort(values)
    grid, scores = np.asarray(values, np.float64)[order], scores[order]
    losses: dict[float, list[float]] = {1 / factor: [], factor: []}
    for seed in range(scores.shape[1]):
        best = int(iqm(np.delete(scores, seed, axis=1)).argmax())
        for ratio, found in losses.items():
            other = _index(grid, grid[best] * ratio)
            if other is not None:
                found.append(float((scores[best, seed] - scores[other, seed]).mean()))
    below, above = (_interval(found) for found in losses.values())
    return Sensitivity(float(grid[int(iqm(scores).argmax())]), below, above)


def _index(grid: Floats, value: float) -> int | None:
    return next((index for index, one in enumerate(grid.tolist()) if math.isclose(one, value, rel_tol=1e-6)), None)


def _interval(losses: Sequence[float]) -> Interval | None:
    if len(losses) < 2:
        return None
    return bootstrap(lambda drawn: np.asarray(drawn.mean((-2, -1))), np.array(losses)[:, None])
