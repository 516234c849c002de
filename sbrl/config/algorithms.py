"""SBRL's own algorithms by name, each a head and a loss. References only, so that a config can be checked without torch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from pydantic import BaseModel

from sbrl.config.presets import Preset


class Algorithm(NamedTuple):
    """The parts of an algorithm. The rest (torso, n, double, dueling, replay, exploration) can be combined freely."""

    head: str  # module:Name of a sbrl.networks.heads.base.Head
    loss: str  # module:Name of a learner.algorithm.losses.interface.Loss, made from the config's Agent
    source: str  # the publication
    presets: Mapping[str, Preset] = MappingProxyType({})  # other packages only; ours are in sbrl.config.presets
    options: type[BaseModel] | None = None  # other packages only: the model of agent.options; ours are keys of agent


ALGORITHMS: dict[str, Algorithm] = {
    "dqn": Algorithm(
        head="sbrl.networks.heads.scalar:ScalarHead",
        loss="learner.algorithm.losses.td:TdLoss",
        source="Mnih et al. 2015; with agent.double van Hasselt et al. 2016",
    ),
    "m-dqn": Algorithm(
        head="sbrl.networks.heads.scalar:ScalarHead",
        loss="learner.algorithm.losses.munchausen:MunchausenLoss",
        source="Vieillard et al. 2020",
    ),
    "c51": Algorithm(
        head="sbrl.networks.heads.categorical:CategoricalHead",
        loss="learner.algorithm.losses.categorical:CategoricalLoss",
        source="Bellemare et al. 2017",
    ),
    "qr-dqn": Algorithm(
        head="sbrl.networks.heads.quantile:QuantileHead",
        loss="learner.algorithm.losses.quantile:QuantileLoss",
        source="Dabney et al. 2018a",
    ),
    "iqn": Algorithm(
        head="sbrl.networks.heads.implicit_quantile:ImplicitQuantileHead",
        loss="learner.algorithm.losses.implicit_quantile:ImplicitQuantileLoss",
        source="Dabney et al. 2018b",
    ),
}
