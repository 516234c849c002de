"""QR-DQN of SB3-contrib: updates from its own replay buffer, and its training on Pong. Runs in .venv-peers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ale_py
import gymnasium
import numpy as np
import torch
from sb3_contrib import QRDQN
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecFrameStack

BUFFER = 10_000  # transitions
WARM_UP = 1_000


class NoGame(gymnasium.Env[Any, Any]):
    """An environment with only the spaces of Atari."""

    observation_space = gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    action_space = gymnasium.spaces.Discrete(6)


def sb3_updates(batch_size: int, learning_rate: float, adam_epsilon: float, threads: int) -> Callable[[int], None]:
    """Makes updates from a buffer of noise."""
    torch.set_num_threads(threads)
    agent = _agent(NoGame(), batch_size, learning_rate, adam_epsilon, buffer_size=1000)
    assert agent.replay_buffer is not None
    generator = np.random.default_rng(0)
    for _ in range(1000):
        observation, following = generator.integers(256, size=(2, 1, 4, 84, 84), dtype=np.uint8)
        agent.replay_buffer.add(observation, following, np.array([[1]]), np.array([1.0]), np.array([False]), [{}])
    agent.set_logger(Logger(None, []))
    return lambda updates: agent.train(updates, batch_size)


def sb3_run(batch_size: int, learning_rate: float, adam_epsilon: float, envs: int, threads: int) -> Callable[[int], None]:
    """Trains on Pong with sticky actions, 0.25 updates per step and `envs` games in turns, by a number of env steps."""
    torch.set_num_threads(threads)
    gymnasium.register_envs(ale_py)
    games = make_atari_env(
        "ALE/Pong-v5", n_envs=envs, seed=0, env_kwargs={"frameskip": 1, "repeat_action_probability": 0.25}, wrapper_kwargs={}
    )
    agent = _agent(
        VecFrameStack(games, 4),
        *(batch_size, learning_rate, adam_epsilon),
        buffer_size=BUFFER,
        optimize_memory_usage=False,
        learning_starts=WARM_UP,
        train_freq=max(1, 4 // envs),
        gradient_steps=max(1, envs // 4),
        exploration_fraction=0.01,
    )
    agent.learn(WARM_UP)

    def work(steps: int) -> None:
        agent.learn(steps, reset_num_timesteps=False)

    return work


def _agent(env: Any, batch_size: int, learning_rate: float, adam_epsilon: float, **settings: Any) -> QRDQN:
    return QRDQN(
        "CnnPolicy",
        env,
        learning_rate=learning_rate,
        batch_size=batch_size,
        policy_kwargs={"n_quantiles": 200, "optimizer_kwargs": {"eps": adam_epsilon}},
        device="cpu",
        **settings,
    )
