"""The losses, by the names that `sbrl.config.algorithms` uses."""

from __future__ import annotations

from collections.abc import Callable

from learner.algorithm.losses.categorical import CategoricalLoss
from learner.algorithm.losses.implicit_quantile import ImplicitQuantileLoss
from learner.algorithm.losses.interface import Loss
from learner.algorithm.losses.munchausen import MunchausenLoss
from learner.algorithm.losses.quantile import QuantileLoss
from learner.algorithm.losses.td import TdLoss
from sbrl import config
from sbrl.config.agents import find_algorithm, part

LOSSES: dict[str, Callable[[config.Agent], Loss]] = {
    "td": TdLoss,
    "munchausen": MunchausenLoss,
    "categorical": CategoricalLoss,
    "quantile": QuantileLoss,
    "implicit-quantile": ImplicitQuantileLoss,
}


def make_loss(agent: config.Agent) -> Loss:
    """The loss of agent.algorithm."""
    algorithm = find_algorithm(agent.algorithm)
    assert algorithm is not None  # the config has been checked
    return part(LOSSES, algorithm.loss)(agent)
