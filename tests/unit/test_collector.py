"""What the collector writes and reports: rewards with noise for the learner, returns without it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from actors.collector import Collector
from actors.reward_noise import make_reward_noise, unchanged
from sbrl import config
from sbrl.envs.make import make_envs
from sbrl.replay.segments import Transition
from sbrl.seeds import reward_noise_seed
from sbrl.v1.episodes_pb2 import Episode


class Rewards:
    """A stream that keeps rewards."""

    def __init__(self) -> None:
        self.rewards: list[float] = []

    def begin(self, observation: Any) -> None: ...

    def append(self, transition: Transition, observation: Any) -> None:
        self.rewards.append(transition.reward)

    def end(self) -> None: ...


class Right:
    def act(self, observation: Any, epsilon: Any) -> Any:
        return np.ones(len(observation), np.int64)


def test_noise_is_gaussian_of_mean_zero_and_the_seeds_own() -> None:
    env = config.Env(reward_noise=2.0)
    add, again, other = (make_reward_noise(env, reward_noise_seed(0, actor, 1)) for actor in (0, 0, 1))
    zeros = np.zeros(20_000, np.float32)
    noise = add(zeros)
    assert noise.dtype == np.float32
    assert noise.mean() == pytest.approx(0, abs=0.08)
    assert noise.std() == pytest.approx(2, rel=0.03)
    assert np.array_equal(noise, again(zeros))
    assert not np.array_equal(noise, other(zeros))
    assert make_reward_noise(config.Env(), 0) is unchanged


def test_what_is_written_is_noisy_and_returns_are_not() -> None:
    env = config.Env(id="CartPole-v1", reward_noise=0.5)
    envs, streams, episodes = make_envs(env, 2, seed=0), [Rewards(), Rewards()], list[Episode]()
    collector = Collector(envs, Right(), streams, episodes.append, make_reward_noise(env, 0))
    while len(episodes) < 10:
        collector.step(0.0, 0)
    envs.close()
    rewards = np.concatenate([stream.rewards for stream in streams])
    assert not (rewards == 1).any()
    assert rewards.mean() == pytest.approx(1, abs=0.2)
    assert all(episode.episode_return == episode.length for episode in episodes)
