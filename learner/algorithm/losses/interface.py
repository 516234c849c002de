"""The interface of losses, their arguments and their result; and the loss of an agent."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from learner.records import Batch
from sbrl import config
from sbrl.config.agents import find_algorithm, import_part
from sbrl.networks.network import ValueNetwork


class LossResult(NamedTuple):
    """Losses of one batch, before importance weights."""

    loss: Tensor  # float[B], one per sample, at least 0; differentiable in the online network's parameters and features
    q_tm1: Tensor  # float[B], detached: the online network's value of the action taken
    target: Tensor  # float[B, M], detached: the target of q_tm1: samples with that mean, or the target alone (M = 1)


class Loss(Protocol):
    """The distance of an online network from the targets of a target network."""

    def __call__(self, features_tm1: Tensor, online: ValueNetwork, target: ValueNetwork, batch: Batch) -> LossResult:
        """The losses of `batch`. Random numbers come from torch's global generator.

        Args:
            features_tm1: float[B, F], `online.torso(batch.s_tm1)`. The caller makes it, as it may also need the latent.
            online: The network that learns.
            target: The network that gives the targets; it gets no gradient.
            batch: The transitions, on the networks' device.
        """
        ...


def make_loss(agent: config.Agent) -> Loss:
    """The loss of agent.algorithm."""
    algorithm = find_algorithm(agent.algorithm)
    assert algorithm is not None  # the config has been checked
    loss: Loss = import_part(algorithm.loss)(agent)
    return loss
