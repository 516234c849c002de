"""The losses, by the names that `sbrl.algorithms` uses."""

from __future__ import annotations

from collections.abc import Callable

from learner.losses.categorical import CategoricalLoss
from learner.losses.implicit_quantile import ImplicitQuantileLoss
from learner.losses.interface import Loss
from learner.losses.munchausen import MunchausenLoss
from learner.losses.quantile import QuantileLoss
from learner.losses.td import TdLoss
from sbrl import config
from sbrl.algorithms import ALGORITHMS

LOSSES: dict[str, Callable[[config.Agent], Loss]] = {
    "td": TdLoss,
    "munchausen": MunchausenLoss,
    "categorical": CategoricalLoss,
    "quantile": QuantileLoss,
    "implicit-quantile": ImplicitQuantileLoss,
}


def make_loss(agent: config.Agent) -> Loss:
    """The loss of agent.algorithm."""
    return LOSSES[ALGORITHMS[agent.algorithm].loss](agent)
