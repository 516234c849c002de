"""The layers of torsos and heads, according to the agent's settings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sbrl import config
from sbrl.networks.noisy import NoisyLinear


def matmul_without_autocast(values: Tensor, weights: Tensor) -> Tensor:
    """values @ weights in their own precision, even under mixed precision: eight bits would harm the targets."""
    if not torch.is_autocast_enabled(values.device.type):
        return values @ weights
    with torch.autocast(values.device.type, enabled=False):
        return values @ weights


def dense(agent: config.Agent, num_inputs: int, num_outputs: int) -> nn.Linear | NoisyLinear:
    """A dense layer; noisy with agent.noisy."""
    if agent.noisy:
        return NoisyLinear(num_inputs, num_outputs, agent.noisy_sigma)
    return nn.Linear(num_inputs, num_outputs)


def norm(agent: config.Agent, num_features: int) -> list[nn.Module]:
    """The layers between a dense layer and its ReLU: layer normalisation with agent.layer_norm, otherwise none."""
    return [nn.LayerNorm(num_features)] if agent.layer_norm else []


def image_norm(agent: config.Agent, channels: int) -> list[nn.Module]:
    """The layers before a ReLU on images [B, C, H, W]: layer normalisation with agent.layer_norm, otherwise none.

    It normalises over the whole image, with a factor and an offset per channel (Ba et al. 2016; in torch, GroupNorm with one
    group).
    """
    return [nn.GroupNorm(1, channels)] if agent.layer_norm else []
