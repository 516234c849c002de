"""QR-DQN of Tianshou 2, from its own replay buffer. Runs in .venv-peers."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium
import numpy as np
import torch
from tianshou.algorithm.modelfree.qrdqn import QRDQN, QRDQNPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch, ReplayBuffer
from tianshou.env.atari.atari_network import QRDQNet


class Scaled(QRDQNet):
    """Takes unscaled frames; Tianshou's examples scale them in the environment."""

    def forward(self, obs, state=None, info=None):  # type: ignore[no-untyped-def]
        return super().forward(torch.as_tensor(obs).float() / 255, state, info)


def tianshou_updates(batch_size: int, learning_rate: float, adam_epsilon: float, threads: int) -> Callable[[int], None]:
    """Makes updates from a buffer of noise."""
    torch.set_num_threads(threads)
    network = Scaled(c=4, h=84, w=84, action_shape=6, num_quantiles=200)
    policy = QRDQNPolicy(model=network, action_space=gymnasium.spaces.Discrete(6))
    agent = QRDQN(
        policy=policy,
        optim=AdamOptimizerFactory(lr=learning_rate, eps=adam_epsilon),
        num_quantiles=200,
        target_update_freq=2000,
    )
    buffer = ReplayBuffer(1000, stack_num=4, ignore_obs_next=True, save_only_last_obs=True)
    generator = np.random.default_rng(0)
    for step in range(1000):
        frames = generator.integers(256, size=(4, 84, 84), dtype=np.uint8)
        is_last = step % 500 == 499
        buffer.add(
            Batch(obs=frames, act=1, rew=1.0, terminated=is_last, truncated=False, obs_next=frames, info={})  # type: ignore[arg-type]
        )

    def work(updates: int) -> None:
        agent.policy.train()
        for _ in range(updates):
            with _is_training(agent):
                agent.update(buffer=buffer, sample_size=batch_size)

    return work


def _is_training(agent: QRDQN[QRDQNPolicy]):  # type: ignore[no-untyped-def]
    from tianshou.utils.torch_utils import policy_within_training_step

    return policy_within_training_step(agent.policy)
