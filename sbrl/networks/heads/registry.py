"""The heads, by the names that `sbrl.config.algorithms` uses."""

from __future__ import annotations

from sbrl.networks.heads.base import Head
from sbrl.networks.heads.categorical import CategoricalHead
from sbrl.networks.heads.implicit_quantile import ImplicitQuantileHead
from sbrl.networks.heads.quantile import QuantileHead
from sbrl.networks.heads.scalar import ScalarHead

HEADS: dict[str, type[Head]] = {
    "scalar": ScalarHead,
    "categorical": CategoricalHead,
    "quantile": QuantileHead,
    "implicit-quantile": ImplicitQuantileHead,
}
