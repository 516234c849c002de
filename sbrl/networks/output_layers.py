"""Output layers: from features to a vector of `size` numbers (a value, logits, quantiles) for each action."""

from __future__ import annotations

from torch import Tensor, nn

from sbrl import config
from sbrl.networks.layers import dense


class PlainOutput(nn.Module):
    """One dense layer for all actions."""

    def __init__(self, agent: config.Agent, num_features: int, num_actions: int, size: int) -> None:
        super().__init__()
        self.layer = dense(agent, num_features, num_actions * size)
        self._shape = (num_actions, size)

    def forward(self, features: Tensor) -> Tensor:
        """float[..., num_features] -> float[..., num_actions, size]."""
        # Losses and values use the precision of the parameters, whatever the precision of the pass.
        outputs: Tensor = self.layer(features).to(self.layer.weight.dtype).unflatten(-1, self._shape)
        return outputs


class DuelingOutput(nn.Module):
    """Q = V + A - mean_a A, for each of the `size` numbers on its own (Wang et al. 2016, equation 9).

    Each stream is one dense layer on the same features, as in Dopamine's full Rainbow and in BBF. In Wang et al. each stream
    has its own hidden layer.
    """

    def __init__(self, agent: config.Agent, num_features: int, num_actions: int, size: int) -> None:
        super().__init__()
        self.value = PlainOutput(agent, num_features, 1, size)
        self.advantage = PlainOutput(agent, num_features, num_actions, size)

    def forward(self, features: Tensor) -> Tensor:
        """float[..., num_features] -> float[..., num_actions, size]."""
        advantage = self.advantage(features)
        outputs: Tensor = self.value(features) + advantage - advantage.mean(dim=-2, keepdim=True)
        return outputs


def make_output(agent: config.Agent, num_features: int, num_actions: int, size: int) -> PlainOutput | DuelingOutput:
    """The output layer that `agent` asks for: dueling or not, noisy or not."""
    output = DuelingOutput if agent.dueling else PlainOutput
    return output(agent, num_features, num_actions, size)
