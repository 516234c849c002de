"""How the target network follows the online network."""

from __future__ import annotations

import torch
from torch import nn

from sbrl.config import Learner


class TargetUpdate:
    """target <- (1 - rate) * target + rate * online, every `period` updates. A rate of 1 copies."""

    def __init__(self, online: nn.Module, target: nn.Module, settings: Learner) -> None:
        weights = online.state_dict()
        self._pairs = [(tensor, weights[name]) for name, tensor in target.state_dict().items()]
        self._rate = settings.target_update_rate
        self.period = settings.target_update_period

    def move(self) -> None:
        """Changes the target network. Does not wait for the device."""
        target, online = zip(*self._pairs, strict=True)
        # With weight 1, the result equals the online network to the bit.
        torch._foreach_lerp_(target, online, self._rate)
