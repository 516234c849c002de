"""Output layers: features to one vector of `size` numbers (a value, logits, quantiles) for each action."""

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
        # Losses and values are made of numbers of the parameters' precision, whatever the pass was in.
        outputs: Tensor = self.layer(features).to(self.layer.weight.dtype).unflatten(-1, self._shape)
        return outputs


class DuelingOutput(nn.Module):
    """Q = V + A - mean_a A, for each of the `size` numbers on its own (Wang et al. 2016, equation 9).

    Both streams are one dense layer on the same features, as in Dopamine's full Rainbow and in BBF; Wang et al. give each a
    hidden layer of its own.
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
