"""QR-DQN's mathematics (Dabney et al. 2018) as pure functions. B: batch size, A: actions, N: quantiles."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class QuantileHuberLoss(NamedTuple):
    """Loss of each sample and its gradient."""

    loss: Tensor  # float[B]
    gradient: Tensor  # float[B, N]: d loss[b] / d quantiles[b, i]


def quantile_targets(r_t: Tensor, discount_t: Tensor, quantiles_t: Tensor) -> Tensor:
    """r_t + discount_t * theta_j(s_t, a*), with a* = argmax_a mean_j theta_j(s_t, a): greedy by the same (target) network.

    Args:
        r_t: float[B], the n-step return.
        discount_t: float[B], discount ** n, or 0 past a terminal.
        quantiles_t: float[B, A, N], the target network's quantiles at s_t.

    Returns:
        float[B, N], samples of the target distribution.
    """
    a_star = quantiles_t.mean(dim=-1).argmax(dim=-1)
    return r_t[:, None] + discount_t[:, None] * select_action(quantiles_t, a_star)


def select_action(quantiles: Tensor, action: Tensor) -> Tensor:
    """quantiles float[B, A, N], action int64[B] -> quantiles of that action, float[B, N]."""
    index = action[:, None, None].expand(-1, 1, quantiles.shape[-1])
    return quantiles.gather(1, index).squeeze(1)


def quantile_huber_loss(quantiles: Tensor, targets: Tensor, kappa: float) -> QuantileHuberLoss:
    """The quantile Huber loss, summed over source quantiles, averaged over target quantiles, with its gradient.

        loss = sum_i mean_j |tau_i - 1{u_ij < 0}| H(u_ij),   u_ij = targets_j - quantiles_i,   tau_i = (i + 1/2) / N
        H(u) = u^2 / 2 for |u| <= kappa, else kappa (|u| - kappa / 2)

    As in Dopamine, H is not divided by kappa. The N x M differences are never formed. For u > 0, H is a difference of hinges,
    H(u) = (relu(u)^2 - relu(u - kappa)^2) / 2, and a sum of hinges over sorted targets follows from prefix sums: N log M
    operations in place of some twenty passes over [B, N, M] for autograd on the plain formula.

    Args:
        quantiles: float[B, N], the online network's quantiles of the action taken; treated as constant.
        targets: float[B, M], samples of the target distribution; treated as constant.
        kappa: Width of the quadratic part.
    """
    num_quantiles, num_targets = quantiles.shape[-1], targets.shape[-1]
    with torch.no_grad():
        # Centred and in float64, for prefix sums of squares lose digits when far from 0.
        centre = targets.double().mean(dim=-1, keepdim=True)
        theta = quantiles.double() - centre
        tau = (torch.arange(num_quantiles, dtype=theta.dtype, device=theta.device) + 0.5) / num_quantiles
        points = torch.cat((theta - kappa, theta, theta + kappa), dim=-1)
        below, above = _hinge_sums(points, targets.double() - centre)
        (below_less, below_at, _), (_, above_at, above_more) = (
            torch.split(hinge, num_quantiles, dim=-1) for hinge in (below, above)
        )
        # Row 0: sums of relu, which are the gradient; row 1: sums of relu^2 / 2, which are the loss.
        pull_up = tau * (above_at - above_more) / num_targets
        pull_down = (1 - tau) * (below_at - below_less) / num_targets
        gradient = pull_down[0] - pull_up[0]
        # Rounding can leave a loss of 0 a little below it, where a priority would be NaN.
        loss = (pull_down[1] + pull_up[1]).sum(dim=-1).clamp(min=0)
    return QuantileHuberLoss(loss.to(quantiles.dtype), gradient.to(quantiles.dtype))


def _hinge_sums(points: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """For each point x: sums over targets t of [relu(x - t), relu(x - t)^2 / 2], and of [relu(t - x), relu(t - x)^2 / 2].

    Args:
        points: float64[B, K].
        targets: float64[B, M].

    Returns:
        Two of float64[2, B, K].
    """
    targets = targets.sort(dim=-1).values
    count_below = torch.searchsorted(targets, points)
    # Sums of t and t^2 over the first k targets, k = 0 .. M.
    sums = torch.nn.functional.pad(torch.stack((targets, targets.square())).cumsum(dim=-1), (1, 0))
    sums_below = sums.gather(-1, count_below.expand(2, -1, -1))
    sums_above = sums[..., -1:] - sums_below
    count_above = targets.shape[-1] - count_below

    def moments(count: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of (t - x) and of (t - x)^2 / 2 over `count` targets, whose sums of t and t^2 are `sums`."""
        first, second = sums
        return first - count * points, 0.5 * (second - points * (2 * first - count * points))

    first_below, second_below = moments(count_below, sums_below)
    return torch.stack((-first_below, second_below)), torch.stack(moments(count_above, sums_above))


def importance_weights(probability: Tensor) -> Tensor:
    """1 / sqrt(probability), divided by the batch's maximum: float64[B] -> float32[B] in (0, 1]."""
    weights = probability.rsqrt()
    return (weights / weights.max()).float()


def priorities(loss: Tensor, exponent: float) -> Tensor:
    """(loss + 1e-10) ** exponent, float64[B]: never 0, so that no transition is out of reach for ever."""
    return (loss.double() + 1e-10).pow(exponent)
