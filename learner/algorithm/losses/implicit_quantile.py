"""IQN (Dabney et al. 2018, "Implicit Quantile Networks for Distributional Reinforcement Learning")."""

from __future__ import annotations

import torch
from torch import Tensor

from learner.algorithm.losses.interface import LossResult
from learner.algorithm.losses.quantile import quantile_targets
from learner.algorithm.losses.quantile_huber import quantile_huber_loss
from learner.algorithm.losses.selection import select_action
from learner.records import Batch
from sbrl import config
from sbrl.networks.heads.implicit_quantile import ImplicitQuantileHead
from sbrl.networks.network import ValueNetwork


class ImplicitQuantileLoss:
    """Equation 3: quantile regression between quantiles at fractions drawn for each sample.

    As in Dopamine, there are three independent draws: num_tau_samples fractions for the online quantiles,
    num_tau_prime_samples for the target quantiles, and num_policy_samples for the values that choose the target's action.
    """

    def __init__(self, agent: config.Agent) -> None:
        self._double = agent.double
        self._kappa = agent.kappa
        self._num_tau_samples = agent.num_tau_samples
        self._num_tau_prime_samples = agent.num_tau_prime_samples

    def __call__(self, features_tm1: Tensor, online: ValueNetwork, target: ValueNetwork, batch: Batch) -> LossResult:
        assert isinstance(online.head, ImplicitQuantileHead)
        assert isinstance(target.head, ImplicitQuantileHead)
        size = len(batch.a_tm1)
        with torch.no_grad():
            features_t = target.torso(batch.s_t)
            q_t_selector = online.q_values(batch.s_t) if self._double else target.head.q_values(features_t)
            quantiles_t = target.head.quantiles(features_t, target.head.sample_tau(size, self._num_tau_prime_samples))
            targets = quantile_targets(batch.r_t, batch.discount_t, quantiles_t, q_t_selector)
        tau = online.head.sample_tau(size, self._num_tau_samples)
        quantiles_tm1 = select_action(online.head.quantiles(features_tm1, tau), batch.a_tm1)
        # Divided by kappa, unlike QR-DQN's loss. Both papers and Dopamine do it this way.
        loss = quantile_huber_loss(quantiles_tm1, tau, targets, self._kappa) / self._kappa
        return LossResult(loss, quantiles_tm1.detach().mean(dim=-1), targets)
