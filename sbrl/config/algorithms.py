"""SBRL's own algorithms by name, each a head and a loss. Names only, so that a config can be checked without torch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from pydantic import BaseModel

from sbrl.config.presets import Preset


class Algorithm(NamedTuple):
    """The parts of an algorithm. The rest (torso, n, double, dueling, replay, exploration) can be combined freely."""

    head: str  # in sbrl.networks.heads.registry.HEADS, or module:Name of another package
    loss: str  # in learner.algorithm.losses.registry.LOSSES, or module:Name
    source: str  # the publication
    presets: Mapping[str, Preset] = MappingProxyType({})  # other packages only; ours are in sbrl.config.presets
    options: type[BaseModel] | None = None  # other packages only: the model of agent.options; ours are keys of agent


ALGORITHMS: dict[str, Algorithm] = {
    "dqn": Algorithm("scalar", "td", "Mnih et al. 2015; with agent.double van Hasselt et al. 2016"),
    "m-dqn": Algorithm("scalar", "munchausen", "Vieillard et al. 2020"),
    "c51": Algorithm("categorical", "categorical", "Bellemare et al. 2017"),
    "qr-dqn": Algorithm("quantile", "quantile", "Dabney et al. 2018a"),
    "iqn": Algorithm("implicit-quantile", "implicit-quantile", "Dabney et al. 2018b"),
}
