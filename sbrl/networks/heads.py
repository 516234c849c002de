"""Output layers, and the network that learner, actors and evaluator agree on: a torso and a quantile head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sbrl.networks.torsos import Torso


class QuantileHead(nn.Linear):
    """A linear layer whose outputs are `num_quantiles` quantiles of the return for each action."""

    def __init__(self, num_features: int, num_actions: int, num_quantiles: int) -> None:
        super().__init__(num_features, num_actions * num_quantiles)
        self._shape = (num_actions, num_quantiles)

    def forward(self, features: Tensor) -> Tensor:
        """float32[B, num_features] -> float32[B, num_actions, num_quantiles]."""
        return super().forward(features).view(-1, *self._shape)

    def fold(self) -> tuple[Tensor, Tensor]:
        """Weight [A, num_features] and bias [A] of the linear layer that gives each action's mean over its quantiles.

        The mean of linear outputs is linear: acting through this layer needs num_quantiles times fewer multiplications.
        """
        with torch.no_grad():
            return self.weight.view(*self._shape, -1).mean(dim=1), self.bias.view(self._shape).mean(dim=1)


class QuantileNetwork(nn.Module):
    """QR-DQN's network (Dabney et al. 2018)."""

    def __init__(self, torso: Torso, head: QuantileHead) -> None:
        super().__init__()
        self.torso = torso
        self.head = head

    def forward(self, observation: Tensor) -> Tensor:
        """[B, stack, *frame_shape] -> quantiles of the return, float32[B, num_actions, num_quantiles]."""
        quantiles: Tensor = self.head(self.torso(observation))
        return quantiles

    def q_values(self, observation: Tensor) -> Tensor:
        """[B, stack, *frame_shape] -> expected returns, float32[B, num_actions]."""
        values: Tensor = self(observation).mean(dim=-1)
        return values
