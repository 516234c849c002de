"""DQN's head (Mnih et al. 2015): an expected return for each action."""

from __future__ import annotations

from torch import Tensor

from sbrl import config
from sbrl.networks.heads.base import Head
from sbrl.networks.output_layers import make_output


class ScalarHead(Head):
    def __init__(self, agent: config.Agent, num_features: int, num_actions: int) -> None:
        super().__init__(agent, num_features, num_actions)
        self.output = make_output(agent, num_features, num_actions, 1)

    def forward(self, features: Tensor) -> Tensor:
        """float[B, F] -> expected returns, float[B, A]."""
        values: Tensor = self.output(features).squeeze(-1)
        return values

    def q_values(self, features: Tensor) -> Tensor:
        return self(features)  # type: ignore[no-any-return]
