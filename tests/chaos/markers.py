"""An environment whose observations identify themselves: each one names its environment, episode and step.

Everything else (an episode's length and end, the right action) follows from these three by a hash. So a test that reads an item
back from replay knows the correct value of every number in it. The observation also shows the right action: within a few
hundred updates, an agent that learns gets twice the return of a random one.

Role processes find it like any environment that is not Gymnasium's own: its id names the module that registers it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

ENV_ID = "tests.chaos.markers:Markers-v0"
NUM_ACTIONS = 2
SHORTEST, LONGEST = 5, 40  # steps of an episode
NUM_FEATURES = 4 + NUM_ACTIONS
SCALE = 2.0**16  # features are whole numbers below this, divided by it, so float32 holds them exactly


class Markers(NamedTuple):
    """The content of observations, as int64 arrays of equal shape."""

    tag: NDArray[np.int64]  # the environment's seed, 31 bits
    number: NDArray[np.int64]  # of the episode, from 1
    step: NDArray[np.int64]  # from 0


def mix(*parts: NDArray[np.int64] | int) -> NDArray[np.uint64]:
    """A hash of whole numbers (splitmix64 over each part in turn)."""
    mixed: NDArray[np.uint64] = np.zeros(1, np.uint64)
    for part in parts:
        mixed = mixed + np.asarray(part).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    return mixed


def lengths(tag: NDArray[np.int64] | int, number: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Steps of an episode."""
    return SHORTEST + (mix(tag, number) % np.uint64(LONGEST - SHORTEST + 1)).astype(np.int64)


def are_truncated(tag: NDArray[np.int64] | int, number: NDArray[np.int64] | int) -> NDArray[np.bool_]:
    """Whether an episode is cut off at its end rather than terminated: one in four."""
    truncated: NDArray[np.bool_] = mix(tag, number, 1) % np.uint64(4) == 0
    return truncated


def right_actions(markers: Markers) -> NDArray[np.int64]:
    """The actions that are rewarded with 1."""
    return (mix(*markers) % np.uint64(NUM_ACTIONS)).astype(np.int64)


def observation_of(tag: int, number: int, step: int) -> NDArray[np.float32]:
    """float32[NUM_FEATURES]."""
    right = right_actions(Markers(*(np.array([value]) for value in (tag, number, step))))
    numbers = np.array([tag % 2**16, tag >> 16, number % 2**16, step]) / SCALE
    observation: NDArray[np.float32] = np.concatenate([numbers, np.eye(NUM_ACTIONS)[right[0]]]).astype(np.float32)
    return observation


def markers_of(observations: NDArray[np.float32]) -> Markers:
    """Reads observations, float32[..., NUM_FEATURES].

    Raises:
        ValueError: one is not from this environment.
    """
    scaled = observations[..., :4].astype(np.float64) * SCALE
    numbers = scaled.astype(np.int64)
    markers = Markers(numbers[..., 0] + (numbers[..., 1] << 16), numbers[..., 2], numbers[..., 3])
    shown = np.eye(NUM_ACTIONS, dtype=np.float32)[right_actions(markers)]
    if not (np.array_equal(numbers, scaled) and np.array_equal(shown, observations[..., 4:])):
        raise ValueError("an observation is none that the environment made")
    return markers


class MarkersEnv(gymnasium.Env[NDArray[np.float32], np.int64]):
    """See the module."""

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode  # accepted, as by Gymnasium's own environments, but nothing is drawn
        self.observation_space = spaces.Box(0.0, 1.0, (NUM_FEATURES,), np.float32)
        self.action_space = spaces.Discrete(NUM_ACTIONS)
        self._tag = self._number = self._step = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._tag, self._number = seed % 2**31, 0
        self._number, self._step = self._number + 1, 0
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        seen = self._observe()
        reward = float(seen[4 + int(action)])
        self._step += 1
        ends = self._step == lengths(self._tag, self._number)[0]
        truncated = bool(ends and are_truncated(self._tag, self._number)[0])
        return self._observe(), reward, bool(ends and not truncated), truncated, {}

    def _observe(self) -> NDArray[np.float32]:
        return observation_of(self._tag, self._number, self._step)


def environment() -> dict[str, str]:
    """The environment variables with which a process can import this module, and so make this environment."""
    repository = Path(__file__).resolve().parents[2]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(repository), os.environ.get("PYTHONPATH")]))}


gymnasium.register("Markers-v0", entry_point="tests.chaos.markers:MarkersEnv")
