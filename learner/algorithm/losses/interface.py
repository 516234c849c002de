"""What a loss is given, and what it returns."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from learner.records import Batch
from sbrl.networks.network import ValueNetwork


class LossResult(NamedTuple):
    """Losses of one batch, before importance weights."""

    loss: Tensor  # float[B], each sample's own, at least 0; differentiable in the online network's parameters and features
    q_tm1: Tensor  # float[B], detached: the online network's value of the action taken
    target: Tensor  # float[B, M], detached: what it is trained towards: samples whose mean is the target, or it alone (M = 1)


class Loss(Protocol):
    """How far an online network is from the targets that a target network gives."""

    def __call__(self, features_tm1: Tensor, online: ValueNetwork, target: ValueNetwork, batch: Batch) -> LossResult:
        """The losses of `batch`; random numbers come from torch's global generator.

        Args:
            features_tm1: float[B, F], `online.torso(batch.s_tm1)`: made by the caller, who may need the latent for more.
            online: The network that learns.
            target: The network that gives the targets; it gets no gradient.
            batch: The transitions, on the networks' device.
        """
        ...
