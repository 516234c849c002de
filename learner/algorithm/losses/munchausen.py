"""Munchausen-DQN (Vieillard et al. 2020): a soft target, and the action's scaled log-policy added to the reward."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from learner.algorithm.losses.interface import LossResult
from learner.algorithm.losses.selection import select_action
from learner.algorithm.losses.td import TdError
from learner.records import Batch
from sbrl import config
from sbrl.networks.network import ValueNetwork


class MunchausenLoss:
    def __init__(self, agent: config.Agent) -> None:
        self._alpha = agent.munchausen_alpha
        self._temperature = agent.munchausen_temperature
        self._clip = agent.munchausen_clip
        self._error = TdError(agent)

    def __call__(self, features_tm1: Tensor, online: ValueNetwork, target: ValueNetwork, batch: Batch) -> LossResult:
        with torch.no_grad():
            bonus = munchausen_bonus(target.q_values(batch.s_tm1), batch.a_tm1, self._temperature, self._clip)
            targets = munchausen_targets(
                batch.r_t, batch.discount_t, self._alpha * bonus, target.q_values(batch.s_t), self._temperature
            )
        q_tm1 = select_action(online.head(features_tm1), batch.a_tm1)
        return LossResult(self._error(q_tm1, targets), q_tm1.detach(), targets[:, None])


def munchausen_targets(r_t: Tensor, discount_t: Tensor, bonus: Tensor, q_t: Tensor, temperature: float) -> Tensor:
    """r_t + bonus + discount_t * sum_a pi(a) (q_t(a) - temperature * log pi(a)), with pi = softmax(q_t / temperature).

    The sum is temperature * log sum_a exp(q_t(a) / temperature). With n > 1, only the first action gets a bonus, as in the
    authors' code. The other n - 1 rewards enter r_t unchanged.

    Args:
        r_t: float[B], the n-step return.
        discount_t: float[B], discount ** n, or 0 past a terminal.
        bonus: float[B], alpha times `munchausen_bonus`.
        q_t: float[B, A], the target network's values at s_t.
        temperature: Of the softmax policy.

    Returns:
        float[B].
    """
    return r_t + bonus + discount_t * temperature * torch.logsumexp(q_t / temperature, dim=-1)


def munchausen_bonus(q_tm1: Tensor, a_tm1: Tensor, temperature: float, clip: float) -> Tensor:
    """The scaled log-policy temperature * log pi(a_tm1 | s_tm1), from `clip` to 0, with pi = softmax(q_tm1 / temperature).

    Args:
        q_tm1: float[B, A], the target network's values at s_tm1.
        a_tm1: int64[B], the actions taken.
        temperature: Of the softmax policy.
        clip: The least value, l_0 in the paper.

    Returns:
        float[B].
    """
    log_policy = functional.log_softmax(q_tm1 / temperature, dim=-1)
    return (temperature * select_action(log_policy, a_tm1)).clamp(clip, 0)
