"""QR-DQN in the style of CleanRL, in one file.

SB3's replay buffer, autograd through all pairs of quantiles, Adam.

Runs in .venv-peers. CleanRL itself has only DQN and C51.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from torch import nn

NUM_ACTIONS, NUM_QUANTILES, KAPPA, GAMMA = 6, 200, 1.0, 0.99


def make_network() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(4, 32, 8, stride=4), nn.ReLU(), nn.Conv2d(32, 64, 4, stride=2), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3136, 512), nn.ReLU()),
        *(nn.Linear(512, NUM_ACTIONS * NUM_QUANTILES), nn.Unflatten(1, (NUM_ACTIONS, NUM_QUANTILES))),
    )


def cleanrl_updates(batch_size: int, learning_rate: float, adam_epsilon: float, threads: int) -> Callable[[int], None]:
    """Makes updates from a buffer of noise."""
    torch.set_num_threads(threads)
    online = make_network()
    target = copy.deepcopy(online)
    optimizer = torch.optim.Adam(online.parameters(), lr=learning_rate, eps=adam_epsilon)
    space = gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    buffer = ReplayBuffer(1000, space, gymnasium.spaces.Discrete(NUM_ACTIONS), "cpu", handle_timeout_termination=False)
    generator = np.random.default_rng(0)
    for _ in range(1000):
        observation, following = generator.integers(256, size=(2, 1, 4, 84, 84), dtype=np.uint8)
        buffer.add(observation, following, np.array([[1]]), np.array([1.0]), np.array([False]), [{}])
    tau = (torch.arange(NUM_QUANTILES) + 0.5) / NUM_QUANTILES
    every = torch.arange(batch_size)

    def work(updates: int) -> None:
        for _ in range(updates):
            data = buffer.sample(batch_size)
            with torch.no_grad():
                following = target(data.next_observations / 255.0)
                best = following[every, following.mean(dim=2).argmax(dim=1)]
                targets = data.rewards + GAMMA * (1 - data.dones) * best
            quantiles = online(data.observations / 255.0)[every, data.actions[:, 0]]
            u = targets[:, None, :] - quantiles[:, :, None]
            huber = torch.where(u.abs() <= KAPPA, 0.5 * u**2, KAPPA * (u.abs() - 0.5 * KAPPA))
            loss = ((tau[:, None] - (u.detach() < 0).float()).abs() * huber).mean(dim=2).sum(dim=1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return work
