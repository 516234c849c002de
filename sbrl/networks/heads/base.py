"""The interface of every head: action values, and the outputs that its loss needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from sbrl import config


class Head(nn.Module, ABC):
    """Maps features to an estimate of each action's return. B: batch size, F: features, A: actions."""

    output: nn.Module
    """The last linear layer or layers. The diagnostics treat its inputs as the network's features."""
    has_hidden_layer: ClassVar[bool] = False
    """Whether the network's dense hidden layer is inside the head. The torso then outputs its flat latent."""

    def __init__(self, agent: config.Agent, num_features: int, num_actions: int) -> None:
        """
        Args:
            agent: Each head reads the keys that it needs.
            num_features: F, the torso's output_size.
            num_actions: A.
        """
        super().__init__()

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """The outputs that the loss needs: float[B, F] -> float[B, A, ...]."""

    @abstractmethod
    def q_values(self, features: Tensor) -> Tensor:
        """Expected returns, float[B, F] -> float[B, A]."""

    def acting(self) -> Callable[[Tensor], Tensor]:
        """The cheapest exact equivalent of `q_values` with the current weights. Call again when they change."""
        return self.q_values
