"""Environments with scripted episodes, and an agent that follows the script."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbrl.envs.spec import EnvSpec, StepResult
from tests.scripted_episodes import NUM_ACTIONS, Episode, action_at, frame_of, numbers_of

VERSION = 9  # of the acting weights


def spec_of(stack: int) -> EnvSpec:
    return EnvSpec(NUM_ACTIONS, (2,), np.dtype(np.float32), stack, "vector", clip_rewards=False)


class ScriptedEnvs:
    """Environments with scripted episodes: environment e plays script[e], one episode after the other."""

    def __init__(self, script: Sequence[Sequence[Episode]], stack: int) -> None:
        self.spec = spec_of(stack)
        self.num_envs = len(script)
        self._script = [iter(episodes) for episodes in script]
        self._playing: list[Episode] = [next(episodes) for episodes in self._script]
        self._t = [0] * self.num_envs

    def reset(self, mask: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        for env in [] if mask is None else np.flatnonzero(mask):
            self._playing[env], self._t[env] = next(self._script[env]), 0
        return self._observe()

    def step(self, actions: NDArray[np.int64]) -> StepResult:
        now = list(zip(self._playing, self._t, strict=True))
        for (episode, t), action in zip(now, actions, strict=True):
            assert action == episode.action(t)
        reward = np.array([episode.reward(t) for episode, t in now], np.float32)
        is_last = np.array([t == episode.length - 1 for episode, t in now])
        terminal = np.array([episode.terminal[t] for episode, t in now])
        self._t = [t + 1 for t in self._t]
        bad = np.zeros_like(is_last)
        return StepResult(self._observe(), reward, is_last & terminal, is_last & ~terminal, terminal & ~is_last, bad)

    def close(self) -> None:
        pass

    def _observe(self) -> NDArray[Any]:
        seen = [episode.observation(t, self.spec.stack) for episode, t in zip(self._playing, self._t, strict=True)]
        return np.array([[frame_of(number) for number in observation] for observation in seen])


class ScriptedPolicy:
    """Chooses its action by the newest frame."""

    def act(self, observation: NDArray[Any], epsilon: float | NDArray[np.float64]) -> NDArray[np.int64]:
        return np.array([action_at(number) for number in numbers_of(observation[:, -1]).astype(int)], np.int64)


def scripts(patterns: Sequence[Sequence[tuple[bool, ...]]], steps: int) -> list[list[Episode]]:
    """The episodes of each environment in `steps` steps: these over and over, with the last one cut off there."""
    played: list[list[Episode]] = []
    number = itertools.count(1)
    for env_patterns in patterns:
        episodes: list[Episode] = []
        left = steps
        for terminal in itertools.cycle(env_patterns):
            if left == 0:
                break
            episodes.append(Episode(next(number), terminal[:left], (len(terminal[:left]),)))
            left -= episodes[-1].length
        played.append(episodes)
    return played


def whole(episodes: Sequence[Episode]) -> list[Episode]:
    """The script for the environment: it does not know of the cut, and has one more episode ready."""
    last = episodes[-1]
    goes_on = last._replace(terminal=(*last.terminal, False)) if not last.terminal[-1] else last
    return [*episodes[:-1], goes_on, Episode(999, (False,), (1,))]
