"""C51 (Bellemare et al. 2017): cross-entropy to the target distribution, projected on the atoms. K: atoms."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from learner.algorithm.losses.interface import LossResult
from learner.algorithm.losses.selection import select_action
from learner.records import Batch
from sbrl import config
from sbrl.networks.heads.categorical import CategoricalHead
from sbrl.networks.layers import matmul_without_autocast
from sbrl.networks.network import ValueNetwork


class CategoricalLoss:
    def __init__(self, agent: config.Agent) -> None:
        self._double = agent.double

    def __call__(self, features_tm1: Tensor, online: ValueNetwork, target: ValueNetwork, batch: Batch) -> LossResult:
        assert isinstance(target.head, CategoricalHead)
        atoms = target.head.atoms
        with torch.no_grad():
            logits_t = target(batch.s_t)
            q_t_selector = online.q_values(batch.s_t) if self._double else expected_values(logits_t, atoms)
            probabilities_t = select_action(logits_t, q_t_selector.argmax(dim=-1)).softmax(dim=-1)
            targets = project_distribution(batch.r_t, batch.discount_t, probabilities_t, atoms)
        logits_tm1 = select_action(online.head(features_tm1), batch.a_tm1)
        return LossResult(
            cross_entropy(logits_tm1, targets),
            expected_values(logits_tm1.detach(), atoms),
            matmul_without_autocast(targets, atoms)[:, None],
        )


def expected_values(logits: Tensor, atoms: Tensor) -> Tensor:
    """The mean of each distribution: logits float[..., K], atoms float[K] -> float[...]."""
    return matmul_without_autocast(logits.softmax(dim=-1), atoms)


def project_distribution(r_t: Tensor, discount_t: Tensor, probabilities_t: Tensor, atoms: Tensor) -> Tensor:
    """The distribution of r_t + discount_t * Z on the atoms (equation 7).

    Mass between two atoms is split between them in proportion. Mass beyond the first or last atom goes to that atom.

    Args:
        r_t: float[B], the n-step return.
        discount_t: float[B], discount ** n, or 0 past a terminal.
        probabilities_t: float[B, K], Z's probabilities, also on `atoms`.
        atoms: float[K], evenly spaced and rising, K >= 2.

    Returns:
        float[B, K], probabilities.
    """
    spacing = (atoms[-1] - atoms[0]) / (len(atoms) - 1)
    moved = (r_t[:, None] + discount_t[:, None] * atoms).clamp(atoms[0], atoms[-1])
    shares = (1 - (moved[:, None, :] - atoms[:, None]).abs() / spacing).clamp(min=0)
    return matmul_without_autocast(shares, probabilities_t[:, :, None]).squeeze(-1)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """- sum_k targets_k log softmax(logits)_k: float[B, K], float[B, K] -> float[B]."""
    return -(targets * functional.log_softmax(logits, dim=-1)).sum(dim=-1)
