"""DQN (Mnih et al. 2015) and Double DQN (van Hasselt et al. 2016): TD learning of expected returns."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from learner.algorithm.losses.interface import LossResult
from learner.algorithm.losses.selection import select_action
from learner.records import Batch
from sbrl import config
from sbrl.networks.network import ValueNetwork


class TdLoss:
    def __init__(self, agent: config.Agent) -> None:
        self._double = agent.double
        self._error = TdError(agent)

    def __call__(self, features_tm1: Tensor, online: ValueNetwork, target: ValueNetwork, batch: Batch) -> LossResult:
        with torch.no_grad():
            q_t = target.q_values(batch.s_t)
            q_t_selector = online.q_values(batch.s_t) if self._double else q_t
            targets = q_targets(batch.r_t, batch.discount_t, q_t, q_t_selector)
        q_tm1 = select_action(online.head(features_tm1), batch.a_tm1)
        return LossResult(self._error(q_tm1, targets), q_tm1.detach(), targets[:, None])


class TdError:
    """agent.td_loss: the squared error u^2 (without a half, as in Dopamine), or the Huber loss of width agent.kappa."""

    def __init__(self, agent: config.Agent) -> None:
        self._kappa = agent.kappa if agent.td_loss == "huber" else None

    def __call__(self, q_tm1: Tensor, targets: Tensor) -> Tensor:
        """float[B], float[B] -> the loss of their difference, float[B]."""
        if self._kappa is None:
            return functional.mse_loss(q_tm1, targets, reduction="none")
        return functional.huber_loss(q_tm1, targets, reduction="none", delta=self._kappa)


def q_targets(r_t: Tensor, discount_t: Tensor, q_t: Tensor, q_t_selector: Tensor) -> Tensor:
    """r_t + discount_t * q_t(a*), with a* = argmax_a q_t_selector(a).

    Args:
        r_t: float[B], the n-step return.
        discount_t: float[B], discount ** n, or 0 past a terminal.
        q_t: float[B, A], the target network's values at s_t.
        q_t_selector: float[B, A]: `q_t` again, or the online network's values at s_t for the double target.

    Returns:
        float[B].
    """
    return r_t + discount_t * select_action(q_t, q_t_selector.argmax(dim=-1))
