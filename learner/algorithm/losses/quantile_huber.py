"""The quantile Huber loss with its gradient in closed form. B: batch size, N: source quantiles, M: samples of the target."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def quantile_huber_loss(quantiles: Tensor, tau: Tensor, targets: Tensor, kappa: float) -> Tensor:
    """The quantile Huber loss, summed over source quantiles, averaged over samples of the target.

        loss = sum_i mean_j |tau_i - 1{u_ij < 0}| H(u_ij),   u_ij = targets_j - quantiles_i
        H(u) = u^2 / 2 for |u| <= kappa, else kappa (|u| - kappa / 2)

    H is not divided by kappa, as in QR-DQN's equations 9 and 10 and in Dopamine. The N x M differences are never formed. For
    u > 0, H is a difference of hinges, H(u) = (relu(u)^2 - relu(u - kappa)^2) / 2. A sum of hinges over sorted targets follows
    from prefix sums. This takes N log M operations; autograd on the plain formula takes about twenty passes over [B, N, M].

    Args:
        quantiles: float[B, N], the online network's quantiles of the action taken. Only this argument has a gradient.
        tau: float[N] or float[B, N] in [0, 1], the fractions of these quantiles.
        targets: float[B, M], samples of the target distribution.
        kappa: Width of the quadratic part, above 0.

    Returns:
        float[B], differentiable once.
    """
    loss: Tensor = _QuantileHuber.apply(quantiles, tau, targets, kappa)  # type: ignore[no-untyped-call]
    return loss


class _QuantileHuber(torch.autograd.Function):
    """Computes the gradient together with the loss, from the same sums. The backward pass only scales it."""

    @staticmethod
    def forward(ctx: Any, quantiles: Tensor, tau: Tensor, targets: Tensor, kappa: float) -> Tensor:
        loss, gradient = _loss_and_gradient(quantiles, tau, targets, kappa)
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return grad_output[:, None] * gradient, None, None, None


def _loss_and_gradient(quantiles: Tensor, tau: Tensor, targets: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
    """The loss float[B], and d loss[b] / d quantiles[b, i] float[B, N]."""
    num_quantiles, num_targets = quantiles.shape[-1], targets.shape[-1]
    # Centred and in float64, because prefix sums of squares lose digits far from 0.
    centre = targets.double().mean(dim=-1, keepdim=True)
    theta, tau = quantiles.double() - centre, tau.double()
    points = torch.cat((theta - kappa, theta, theta + kappa), dim=-1)
    below, above = _hinge_sums(points, targets.double() - centre)
    (below_less, below_at, _), (_, above_at, above_more) = (
        torch.split(hinge, num_quantiles, dim=-1) for hinge in (below, above)
    )
    # Row 0: sums of relu, which are the gradient; row 1: sums of relu^2 / 2, which are the loss.
    pull_up = tau * (above_at - above_more) / num_targets
    pull_down = (1 - tau) * (below_at - below_less) / num_targets
    gradient = pull_down[0] - pull_up[0]
    # Rounding can make a loss of 0 slightly negative, and its priority would be NaN.
    loss = (pull_down[1] + pull_up[1]).sum(dim=-1).clamp(min=0)
    return loss.to(quantiles.dtype), gradient.to(quantiles.dtype)


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
        """Sums of (t - x) and of (t - x)^2 / 2 over `count` targets; `sums` has their sums of t and t^2."""
        first, second = sums
        return first - count * points, 0.5 * (second - points * (2 * first - count * points))

    first_below, second_below = moments(count_below, sums_below)
    return torch.stack((-first_below, second_below)), torch.stack(moments(count_above, sums_above))
