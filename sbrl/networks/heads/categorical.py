"""C51's head (Bellemare et al. 2017): a distribution over fixed atoms for each action."""

from __future__ import annotations

import torch
from torch import Tensor

from sbrl import config
from sbrl.networks.heads.base import Head
from sbrl.networks.layers import matmul_without_autocast
from sbrl.networks.output_layers import make_output


class CategoricalHead(Head):
    atoms: Tensor  # float[K]: the returns that can be represented, from v_min to v_max; not part of the weights

    def __init__(self, agent: config.Agent, num_features: int, num_actions: int) -> None:
        super().__init__(agent, num_features, num_actions)
        self.output = make_output(agent, num_features, num_actions, agent.num_atoms)
        assert agent.v_min is not None  # the config fills both in
        assert agent.v_max is not None
        self._support = (agent.v_min, agent.v_max, agent.num_atoms)
        self.register_buffer("atoms", torch.empty(agent.num_atoms), persistent=False)

    def initialise(self, _generator: torch.Generator) -> None:
        self.atoms = torch.linspace(*self._support)

    def forward(self, features: Tensor) -> Tensor:
        """float[B, F] -> logits, float[B, A, K]."""
        logits: Tensor = self.output(features)
        return logits

    def q_values(self, features: Tensor) -> Tensor:
        """The distributions' means, float[B, F] -> float[B, A]."""
        return matmul_without_autocast(self(features).softmax(dim=-1), self.atoms)
