"""Builds the network a config describes, with parameters that depend on nothing but the seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

from sbrl import config
from sbrl.envs.spec import EnvSpec
from sbrl.networks.heads import QuantileHead, QuantileNetwork
from sbrl.networks.torsos import MinAtarConv, Mlp, NatureCnn, Torso

_TORSOS: Mapping[str, Callable[[EnvSpec, int], Torso]] = {"nature-cnn": NatureCnn, "minatar-conv": MinAtarConv, "mlp": Mlp}
_TORSO_OF_KIND: Mapping[str, str] = {"frames": "nature-cnn", "grid": "minatar-conv", "vector": "mlp"}


def build_network(agent: config.Agent, spec: EnvSpec, seed: int = 0) -> QuantileNetwork:
    """The network of `agent` for observations of `spec`, on the CPU; neither reads nor moves torch's global random state.

    Raises:
        UsageError: agent.torso cannot take the environment's observations.
    """
    torso_name = _TORSO_OF_KIND[spec.kind] if agent.torso == "auto" else agent.torso
    # The meta device allocates nothing and draws no random numbers: every parameter is set once, below.
    with torch.device("meta"):
        torso = _TORSOS[torso_name](spec, agent.hidden_size)
        network = QuantileNetwork(torso, QuantileHead(torso.output_size, spec.num_actions, agent.num_quantiles))
    network.to_empty(device="cpu")
    _initialise(network, torch.Generator().manual_seed(seed))
    # Convolutions on the CPU run about twice as fast backwards in this layout; values are the same.
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Dopamine's variance scaling: weights uniform in +-sqrt(3 * scale / fan_in) with scale = 1 / sqrt(3); biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            bound = math.sqrt(math.sqrt(3) / fan_in)
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
