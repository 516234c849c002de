"""An environment that returns a bad value. Importing this registers one with reward NaN at every 151st step."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

ENV_ID = "tests.bad_env:BadReward-v0"


class BadEnv(gymnasium.Env[Any, Any]):
    """Episodes of `length` steps with reward 1. Step `at` of an episode (0: its reset), or of the environment, is bad."""

    def __init__(self, what: str, value: Any, at: int, length: int, of_all: bool = False, space: Any = None) -> None:
        self._what, self._value, self._at, self._length, self._of_all = what, value, at, length, of_all
        self.observation_space = space or spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.action_space = spaces.Discrete(2)
        self._good = self.observation_space.sample()
        self._step = self._steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._step = 0
        return self._or_bad("observation", self._good), {}

    def step(self, action: int) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self._step += 1
        self._steps += 1
        return (
            self._or_bad("observation", self._good),
            self._or_bad("reward", 1.0),
            self._or_bad("terminated", self._step == self._length),
            self._or_bad("truncated", False),
            {},
        )

    def _or_bad(self, what: str, good: Any) -> Any:
        step = self._steps % self._at if self._of_all else self._step - self._at
        return self._value if what == self._what and step == 0 and (self._step or not self._of_all) else good


def register(env_id: str = "Bad-v0", **settings: Any) -> str:
    """Registers an environment with these settings under an id, replaces an earlier one, and returns the id."""
    gymnasium.registry.pop(env_id, None)
    gymnasium.register(env_id, entry_point="tests.bad_env:BadEnv", kwargs=settings)
    return env_id


register("BadReward-v0", what="reward", value=math.nan, at=151, length=50, of_all=True)
