"""What every head offers: action values, and whatever its loss is about."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from sbrl import config


class Head(nn.Module, ABC):
    """From features to what is known of each action's return. B: batch size, F: features, A: actions."""

    output: nn.Module
    """The last layer or layers, linear: what goes in are the network's features as its diagnostics see them."""
    has_hidden_layer: ClassVar[bool] = False
    """The network's dense hidden layer is inside the head; the torso then hands on its flat latent."""

    def __init__(self, agent: config.Agent, num_features: int, num_actions: int) -> None:
        """
        Args:
            agent: What the head reads of it is its own affair.
            num_features: F, the torso's output_size.
            num_actions: A.
        """
        super().__init__()

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """What the loss is about: float[B, F] -> float[B, A, ...]."""

    @abstractmethod
    def q_values(self, features: Tensor) -> Tensor:
        """Expected returns, float[B, F] -> float[B, A]."""

    def acting(self) -> Callable[[Tensor], Tensor]:
        """The cheapest exact way to `q_values` with the weights of now; ask again when they change."""
        return self.q_values
