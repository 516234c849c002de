"""Steps all environments of an actor once, with one batched inference, and writes the transitions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from actors.reward_noise import AddNoise, unchanged
from sbrl.envs.spec import VectorEnv
from sbrl.replay.segments import Transition
from sbrl.v1.episodes_pb2 import Episode


class Policy(Protocol):
    def act(self, observation: NDArray[Any], epsilon: float | NDArray[np.float64]) -> NDArray[np.int64]: ...


class Stream(Protocol):
    def begin(self, observation: NDArray[Any]) -> None: ...
    def append(self, transition: Transition, observation: NDArray[Any]) -> None: ...
    def end(self) -> None: ...


class Collector:
    """The actor's inner loop, shared by the actor role and the serial run."""

    def __init__(
        self,
        envs: VectorEnv,
        policy: Policy,
        streams: Sequence[Stream],
        on_episode: Callable[[Episode], None],
        add_noise: AddNoise = unchanged,
    ) -> None:
        """The first `step` resets the environments.

        Args:
            streams: one for each environment.
            on_episode: called with each complete episode. It must fill in the fields actor, incarnation and env_steps.
            add_noise: to the rewards that are written, after clipping. Returns are without it.
        """
        self._envs, self._policy, self._streams, self._on_episode = envs, policy, streams, on_episode
        self._add_noise = add_noise
        self._observation: NDArray[Any] | None = None
        self._returns = np.zeros(envs.num_envs, np.float64)
        self._lengths = np.zeros(envs.num_envs, np.int64)
        self.env_steps = 0
        self.episodes = 0
        self.episodes_cut = 0  # episodes cut short at a bad value from the environment; each has one step without a transition

    def step(self, epsilon: float | NDArray[np.float64], weights_version: int) -> None:
        """Acts once in every environment.

        Args:
            epsilon: probability of a random action, one for all environments or one for each.
            weights_version: version of the policy's weights, kept with every item.

        Raises:
            FinalError: an environment returned a value that cannot be trained on.
        """
        if self._observation is None:
            self._observation = self._envs.reset()
            for stream, first in zip(self._streams, self._observation, strict=True):
                stream.begin(first)
        actions = self._policy.act(self._observation, epsilon)
        result = self._envs.step(actions)
        self._returns += result.reward
        self._lengths += 1
        bad = result.bad
        rewards = self._add_noise(np.clip(result.reward, -1.0, 1.0) if self._envs.spec.clip_rewards else result.reward)
        terminal = result.terminated | result.life_lost
        for env in np.flatnonzero(~bad):
            reached = result.observation[env]
            step = Transition(int(actions[env]), float(rewards[env]), bool(terminal[env]), reached[-1], weights_version)
            self._streams[env].append(step, reached)
        self.env_steps += self._envs.num_envs
        done = result.terminated | result.truncated | bad
        self._observation = self._finish(done, result.truncated, bad, weights_version) if done.any() else result.observation

    def drain(self) -> None:
        """Cuts the running episodes off, so that every step taken becomes an item. These episodes are not reported."""
        if self._observation is not None:
            for stream in self._streams:
                stream.end()

    def _finish(
        self, done: NDArray[np.bool_], truncated: NDArray[np.bool_], bad: NDArray[np.bool_], weights_version: int
    ) -> NDArray[Any]:
        """Ends the episodes of the environments in `done` and begins the next ones. A bad episode's return is not counted."""
        for env in np.flatnonzero(done):
            self._streams[env].end()
            if bad[env]:
                self.episodes_cut += 1
                continue
            episode = Episode(
                env=int(env),
                number=self.episodes,
                episode_return=float(self._returns[env]),
                length=int(self._lengths[env]),
                truncated=bool(truncated[env]),
                weights_version=weights_version,
                time=time.time(),
            )
            self.episodes += 1
            self._on_episode(episode)
        observation = self._envs.reset(done)
        for env in np.flatnonzero(done):
            self._streams[env].begin(observation[env])
        self._returns[done], self._lengths[done] = 0.0, 0
        return observation
