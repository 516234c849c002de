"""The mathematics of the diagnostics: measures of gradients, actions and activations. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

NAN = float("nan")


class GradientMoments(NamedTuple):
    """Signal and noise of a batch's gradient: for B transitions it is G plus noise of variance Sigma / B."""

    signal: float  # |G|^2, squared norm of the gradient over all of replay
    noise: float  # tr(Sigma), variance of one transition's gradient, summed over parameters

    @property
    def noise_scale(self) -> float:
        """B_simple = tr(Sigma) / |G|^2, in transitions (McCandlish et al. 2018, equation 2.9).

        NaN if the noise hides the signal: the signal's estimate is unbiased, so it can be zero or negative.
        """
        return self.noise / self.signal if self.signal > 0 else NAN


def gradient_moments(small_squared: float, big_squared: float, small: int, big: int) -> GradientMoments:
    """Unbiased estimates from the gradients of two batch sizes (McCandlish et al. 2018, appendix A.1, equations A.2, A.3).

    Args:
        small_squared: E|G_small|^2, a mean over batches of `small` transitions.
        big_squared: |G_big|^2 of a batch of `big` transitions, such as all small batches together.
        small, big: transitions per batch, 1 <= small < big.
    """
    signal = (big * big_squared - small * small_squared) / (big - small)
    noise = (small_squared - big_squared) / (1 / small - 1 / big)
    return GradientMoments(signal, noise)


class GradientAverage(NamedTuple):
    """Exponential moving averages of both moments. As the appendix recommends, the ratio is taken of the averages.

    A single estimate of the signal is mostly noise, and the mean of ratios is not the ratio of the means.
    """

    signal: float = 0.0  # sums of decay ** age * estimate
    noise: float = 0.0
    weight: float = 0.0  # sum of decay ** age

    def add(self, moments: GradientMoments, decay: float) -> GradientAverage:
        """Adds one more measurement. Skips one that is not finite, because it would stay in the average for ever."""
        if not (math.isfinite(moments.signal) and math.isfinite(moments.noise)):
            return self
        return GradientAverage(
            decay * self.signal + moments.signal, decay * self.noise + moments.noise, decay * self.weight + 1
        )

    @property
    def mean(self) -> GradientMoments:
        """NaN before the first measurement."""
        if self.weight == 0:
            return GradientMoments(NAN, NAN)
        return GradientMoments(self.signal / self.weight, self.noise / self.weight)


def mean_td_error(target: Tensor, q_tm1: Tensor) -> Tensor:
    """float[]: mean over a batch of |target - q_tm1|; float[B, M] samples whose mean is the target, float[B]."""
    return (target.mean(dim=-1) - q_tm1).abs().mean()


def norm(tensors: Sequence[Tensor]) -> Tensor:
    """float[]: the Euclidean norm of all numbers of all tensors."""
    total: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))))
    return total


def churn_ratio(before: Tensor, after: Tensor) -> float:
    """Share of states whose greedy action differs: int64[N], int64[N] -> 0 to 1 (Schaul et al. 2022, section 2)."""
    return (before != after).double().mean().item()


def unit_activity(activation: Tensor) -> Tensor:
    """Mean absolute activation of each unit: [B, C, H, W] -> [C], and [B, ..., F] -> [F].

    A convolution's unit is its channel, as in the code of Sokar et al. 2023.
    """
    axes = [axis for axis in range(activation.dim()) if axis != (1 if activation.dim() == 4 else activation.dim() - 1)]
    return activation.abs().mean(dim=axes)


def dormant_ratio(layers: Sequence[Tensor], tau: float) -> float:
    """Share of all layers' units that are tau-dormant (Sokar et al. 2023, equation 1 and definition 3.1).

    A unit is dormant if its activity is at most `tau` times its layer's mean. In a layer without activity, all are dormant.

    Args:
        layers: the `unit_activity` of each layer, float[units].

    Returns:
        NaN if activity is not finite.
    """
    if not all(activity.isfinite().all() for activity in layers):
        return NAN
    dormant = sum(int((activity <= tau * activity.mean()).sum().item()) for activity in layers)
    return dormant / sum(len(activity) for activity in layers)


def effective_rank(features: Tensor, delta: float) -> float:
    """srank: the least k such that the k largest singular values make up a share of 1 - delta of the sum of all.

    Kumar et al. 2021, "Implicit Under-Parameterization", equation 1. NaN if features are not finite.

    Args:
        features: float[N, F], a row for each state.
    """
    if not features.isfinite().all():
        return NAN  # the decomposition of such a matrix raises
    values = torch.linalg.svdvals(features)
    total = values.sum()
    if total == 0:
        return 0
    # Counts the values of k whose share is too small; the next k is the result.
    return int((values.cumsum(0) < (1 - delta) * total).sum().item()) + 1
