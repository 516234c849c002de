"""Seeded random inputs for losses: ordinary, tiny and huge values, ties, terminals. B: batch size, A: actions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

NUM_ACTIONS = 4
BATCH_SIZE = 64


class Transition(NamedTuple):
    """The transition that a loss gets. r_t and discount_t have float32 values, because some oracles round to these."""

    a_tm1: Tensor  # int64[B]
    r_t: Tensor  # float64[B]
    discount_t: Tensor  # float64[B]


def draw_transition(generator: np.random.Generator, size: int = BATCH_SIZE) -> Transition:
    """Rewards from 0 to thousands; discounts of 1, 3 and 10 steps, and of terminals."""
    rewards = generator.normal(size=size) * generator.choice([0, 1e-3, 1, 10, 5e3], size=size)
    discounts = generator.choice([0, 0.99, 0.99**3, 0.997**10], size=size)
    return Transition(
        torch.from_numpy(generator.integers(NUM_ACTIONS, size=size)),
        torch.from_numpy(rewards.astype(np.float32).astype(np.float64)),
        torch.from_numpy(discounts.astype(np.float32).astype(np.float64)),
    )


def draw_values(generator: np.random.Generator, *shape: int, scales: tuple[float, ...] = (1e-6, 1, 1, 30, 1e4)) -> Tensor:
    """float64[*shape]: each row has its own scale. Every fourth row has small integers, so that its actions tie."""
    values = generator.normal(size=shape) * generator.choice(scales, size=(shape[0], *[1] * (len(shape) - 1)))
    values[::4] = generator.integers(-1, 2, size=values[::4].shape)
    return torch.from_numpy(values)


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    """The gradient of each sample's own loss, float[B], in its part of `of`, float[B, ...]."""
    (result,) = torch.autograd.grad(loss.sum(), of)
    return result
