"""Combines the scores of many runs into one number.

The unit of replication is the seed, never the episode. Scores are float64[..., S, E]: S seeds, E environments, each already on
its environment's scale, so that environments can be combined. Functions accept any leading axes, such as resamples.

Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]

TRIM = 0.25  # share of the runs left out at either end


def iqm(scores: Floats) -> Floats:
    """Interquartile mean over all runs of all environments: float64[..., S, E] -> float64[...].

    It leaves out int(S * E / 4) runs at either end. This is scipy.stats.trim_mean without its checks, which would take most of
    a permutation test's time.
    """
    flat = scores.reshape(*scores.shape[:-2], -1)
    cut = int(TRIM * flat.shape[-1])
    if cut:
        flat = np.partition(flat, (cut, flat.shape[-1] - cut - 1), axis=-1)
    return np.asarray(flat[..., cut : flat.shape[-1] - cut].mean(-1), np.float64)


def mean(scores: Floats) -> Floats:
    """Mean over all runs of all environments: float64[..., S, E] -> float64[...]."""
    return np.asarray(scores.mean((-2, -1)), np.float64)


def probability_of_improvement(x: Floats, y: Floats) -> Floats:
    """How often a run of x beats one of y; ties count half: the mean over environments of P(X > Y) + P(X = Y) / 2.

    This is the Mann-Whitney statistic U / (S_x S_y), and equation 2 of the source.

    Args:
        x, y: float64[..., S_x, E] and float64[..., S_y, E].

    Returns:
        float64[...], from 0 to 1.
    """
    difference = x[..., :, None, :] - y[..., None, :, :]
    return np.asarray((0.5 * (1 + np.sign(difference))).mean((-3, -2, -1)), np.float64)


def rank_correlation(x: Floats, y: Floats) -> Floats:
    """Spearman's rank correlation over arms of the means over seeds: whether arms with a high x have a high y.

    Args:
        x, y: float64[..., S, A]: A arms instead of environments.

    Returns:
        float64[...], from -1 to 1; 0 if all arms are equal in x or in y.
    """
    ranks = [stats.rankdata(values.mean(-2), axis=-1) for values in (x, y)]
    x_rank, y_rank = (rank - rank.mean(-1, keepdims=True) for rank in ranks)
    width = np.sqrt((x_rank**2).sum(-1) * (y_rank**2).sum(-1))
    return np.asarray((x_rank * y_rank).sum(-1) / np.where(width > 0, width, 1.0), np.float64)


def performance_profile(scores: Floats, thresholds: Floats) -> Floats:
    """Share of runs above each threshold: float64[..., S, E], float64[T] -> float64[..., T] (equation 3 of the source)."""
    flat = scores.reshape(*scores.shape[:-2], -1)
    return np.asarray((flat[..., None, :] > thresholds[:, None]).mean(-1), np.float64)
