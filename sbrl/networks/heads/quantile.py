"""QR-DQN's head (Dabney et al. 2018): quantiles of the return for each action."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from sbrl import config
from sbrl.networks.heads.base import Head
from sbrl.networks.output_layers import PlainOutput, make_output


class QuantileHead(Head):
    def __init__(self, agent: config.Agent, num_features: int, num_actions: int) -> None:
        super().__init__(agent, num_features, num_actions)
        self.output = make_output(agent, num_features, num_actions, agent.num_quantiles)
        self._shape = (num_actions, agent.num_quantiles)

    def forward(self, features: Tensor) -> Tensor:
        """float[B, F] -> quantiles at (i + 1/2) / N, float[B, A, N]."""
        quantiles: Tensor = self.output(features)
        return quantiles

    def q_values(self, features: Tensor) -> Tensor:
        """The quantiles' means, float[B, F] -> float[B, A]."""
        return self(features).mean(dim=-1)  # type: ignore[no-any-return]

    def acting(self) -> Callable[[Tensor], Tensor]:
        """The mean of linear outputs is linear, so one output per action takes N times fewer multiplications."""
        if not isinstance(self.output, PlainOutput) or not isinstance(self.output.layer, nn.Linear):
            return self.q_values
        layer = self.output.layer
        with torch.no_grad():
            weight = layer.weight.view(*self._shape, -1).mean(dim=1)
            bias = layer.bias.view(self._shape).mean(dim=1)
        return lambda features: functional.linear(features, weight, bias)
