"""The network that learner, actors and evaluator share: a torso and a head."""

from __future__ import annotations

from torch import Tensor, nn

from sbrl.networks.heads.base import Head
from sbrl.networks.noisy import NoisyLinear
from sbrl.networks.torsos import Torso


class ValueNetwork(nn.Module):
    """A torso and a head. Noisy layers use their noise in training mode and their mean weights in evaluation mode."""

    def __init__(self, torso: Torso, head: Head) -> None:
        super().__init__()
        self.torso = torso
        self.head = head
        self._noisy = [module for module in self.modules() if isinstance(module, NoisyLinear)]

    def forward(self, observation: Tensor) -> Tensor:
        """[B, stack, *frame_shape] -> the head's outputs, float[B, num_actions, ...]."""
        return self.head(self.torso(observation))  # type: ignore[no-any-return]

    def q_values(self, observation: Tensor) -> Tensor:
        """[B, stack, *frame_shape] -> expected returns, float[B, num_actions]."""
        return self.head.q_values(self.torso(observation))

    def resample_noise(self) -> None:
        """Draws new noise for each noisy layer from torch's global generator. Without such layers it draws nothing."""
        for module in self._noisy:
            module.resample()
