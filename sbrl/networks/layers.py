"""The layers that torsos and heads are made of, as the agent's settings have them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sbrl import config
from sbrl.networks.noisy import NoisyLinear


def values_product(values: Tensor, weights: Tensor) -> Tensor:
    """values @ weights in their own precision, under automatic mixed precision too: eight bits would be felt in targets."""
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
    """What comes between a dense layer and its ReLU: with agent.layer_norm layer normalisation, otherwise nothing."""
    return [nn.LayerNorm(num_features)] if agent.layer_norm else []


def image_norm(agent: config.Agent, channels: int) -> list[nn.Module]:
    """What comes before a ReLU on images [B, C, H, W]: with agent.layer_norm layer normalisation, otherwise nothing.

    Over all of an image, with a factor and an offset for each channel (Ba et al. 2016; torch has it as one group of channels).
    """
    return [nn.GroupNorm(1, channels)] if agent.layer_norm else []
