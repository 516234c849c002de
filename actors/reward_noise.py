"""Noise on the rewards that the learner sees: for studies of what noise in the data does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sbrl.config import Env

AddNoise = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def unchanged(rewards: NDArray[np.float32]) -> NDArray[np.float32]:
    """No noise."""
    return rewards


def make_reward_noise(env: Env, seed: int) -> AddNoise:
    """Adds independent Gaussian noise of standard deviation env.reward_noise to rewards float32[E]; at 0 changes nothing."""
    if not env.reward_noise:
        return unchanged
    generator = np.random.default_rng(seed)
    return lambda rewards: rewards + generator.normal(0, env.reward_noise, rewards.shape).astype(np.float32)
