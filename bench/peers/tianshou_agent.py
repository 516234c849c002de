"""QR-DQN of Tianshou 2: updates from its own replay buffer, and its training on Pong. Runs in .venv-peers."""

from __future__ import annotations

from collections.abc import Callable

import ale_py
import gymnasium
import numpy as np
import torch
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation
from tianshou.algorithm.modelfree.qrdqn import QRDQN, QRDQNPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch, Collector, ReplayBuffer, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.env.atari.atari_network import QRDQNet

BUFFER = 10_000  # transitions
WARM_UP = 1_000


class Scaled(QRDQNet):
    """Takes unscaled frames; Tianshou's examples scale them in the environment."""

    def forward(self, obs, state=None, info=None):  # type: ignore[no-untyped-def]
        return super().forward(torch.as_tensor(obs).float() / 255, state, info)


def tianshou_updates(batch_size: int, learning_rate: float, adam_epsilon: float, threads: int) -> Callable[[int], None]:
    """Makes updates from a buffer of noise."""
    torch.set_num_threads(threads)
    agent = _agent(learning_rate, adam_epsilon)
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


def tianshou_run(batch_size: int, learning_rate: float, adam_epsilon: float, envs: int, threads: int) -> Callable[[int], None]:
    """Trains on Pong with sticky actions, 0.25 updates per step and `envs` games in turns, by a number of env steps."""
    torch.set_num_threads(threads)
    gymnasium.register_envs(ale_py)
    agent = _agent(learning_rate, adam_epsilon)
    agent.policy.set_eps_training(0.01)
    buffer = VectorReplayBuffer(BUFFER, envs, stack_num=4, ignore_obs_next=True, save_only_last_obs=True)
    collector = Collector(agent.policy, DummyVectorEnv([_pong] * envs), buffer, exploration_noise=True)
    collector.reset()
    collector.collect(n_step=WARM_UP, random=True)

    def work(steps: int) -> None:
        for _ in range(steps // envs):
            with _is_training(agent):
                collector.collect(n_step=envs)
                for _ in range(max(1, envs // 4)):
                    agent.update(buffer=buffer, sample_size=batch_size)

    return work


def _pong() -> gymnasium.Env:  # type: ignore[type-arg]
    game = gymnasium.make("ALE/Pong-v5", frameskip=1, repeat_action_probability=0.25)
    return FrameStackObservation(AtariPreprocessing(game, noop_max=0), 4)


def _agent(learning_rate: float, adam_epsilon: float) -> QRDQN[QRDQNPolicy]:
    network = Scaled(c=4, h=84, w=84, action_shape=6, num_quantiles=200)
    return QRDQN(
        policy=QRDQNPolicy(model=network, action_space=gymnasium.spaces.Discrete(6)),
        optim=AdamOptimizerFactory(lr=learning_rate, eps=adam_epsilon),
        num_quantiles=200,
        target_update_freq=2000,
    )


def _is_training(agent: QRDQN[QRDQNPolicy]):  # type: ignore[no-untyped-def]
    from tianshou.utils.torch_utils import policy_within_training_step

    return policy_within_training_step(agent.policy)
