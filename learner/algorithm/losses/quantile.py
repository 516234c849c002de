"""QR-DQN (Dabney et al. 2018, "Distributional Reinforcement Learning with Quantile Regression"). N: quantiles."""

from __future__ import annotations

import torch
from torch import Tensor

from learner.algorithm.losses.interface import LossResult
from learner.algorithm.losses.quantile_huber import quantile_huber_loss
from learner.algorithm.losses.selection import select_action
from learner.records import Batch
from sbrl import config
from sbrl.networks.network import ValueNetwork


class QuantileLoss:
    def __init__(self, agent: config.Agent) -> None:
        self._double = agent.double
        self._kappa = agent.kappa

    def __call__(self, features_tm1: Tensor, online: ValueNetwork, target: ValueNetwork, batch: Batch) -> LossResult:
        with torch.no_grad():
            quantiles_t = target(batch.s_t)
            q_t_selector = online.q_values(batch.s_t) if self._double else quantiles_t.mean(dim=-1)
            targets = quantile_targets(batch.r_t, batch.discount_t, quantiles_t, q_t_selector)
        quantiles_tm1 = select_action(online.head(features_tm1), batch.a_tm1)
        loss = quantile_huber_loss(quantiles_tm1, midpoints(quantiles_tm1), targets, self._kappa)
        return LossResult(loss, quantiles_tm1.detach().mean(dim=-1), targets)


def quantile_targets(r_t: Tensor, discount_t: Tensor, quantiles_t: Tensor, q_t_selector: Tensor) -> Tensor:
    """r_t + discount_t * theta_j(s_t, a*), with a* = argmax_a q_t_selector(a).

    Args:
        r_t: float[B], the n-step return.
        discount_t: float[B], discount ** n, or 0 past a terminal.
        quantiles_t: float[B, A, N], the target network's quantiles at s_t.
        q_t_selector: float[B, A], the values that choose a*: the target network's, or the online network's for the double
            target.

    Returns:
        float[B, N], samples of the target distribution.
    """
    return r_t[:, None] + discount_t[:, None] * select_action(quantiles_t, q_t_selector.argmax(dim=-1))


def midpoints(quantiles: Tensor) -> Tensor:
    """The fractions (i + 1/2) / N of N quantiles: float[..., N] -> float[N] of the same dtype and device."""
    num_quantiles = quantiles.shape[-1]
    return (torch.arange(num_quantiles, dtype=quantiles.dtype, device=quantiles.device) + 0.5) / num_quantiles
