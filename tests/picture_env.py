"""Environments with pictures: one that shows which button pays, and a Gymnasium game with its whole screen.

Importing this registers them.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

BUTTONS_ID = "tests.picture_env:Buttons-v0"
SCREEN_ID = "tests.picture_env:Screen-v0"
LENGTH = 8  # steps of an episode of Buttons


class Buttons(gymnasium.Env[Any, Any]):
    """One half of the picture is lit. The button on that side pays 1, the other 0."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012  # as Gymnasium has it

    def __init__(self, shape: list[int], low: int = 0, high: int = 255, render_mode: str | None = None) -> None:
        self._shape = tuple(shape)
        self.observation_space = spaces.Box(low, high, self._shape, np.uint8)
        self.action_space = spaces.Discrete(2)
        self.render_mode = render_mode
        self._lit, self._steps = 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        return self._next(), {}

    def step(self, action: int) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        reward = float(action == self._lit)
        self._steps += 1
        return self._next(), reward, self._steps == LENGTH, False, {}

    def render(self) -> Any:
        return np.full((20, 30, 3), 255 * self._lit, np.uint8)

    def _next(self) -> NDArray[np.uint8]:
        """A picture with the next side lit: left or right, or, if channels come first, top or bottom."""
        self._lit = int(self.np_random.integers(2))
        picture = np.zeros(self._shape, np.uint8)
        middle = picture.shape[1] // 2
        (picture[:, middle:] if self._lit else picture[:, :middle]).fill(200)
        return picture


def screen(game: str, frameskip: int) -> gymnasium.Env[Any, Any]:
    """A game that repeats actions itself, with RGB observations."""
    return gymnasium.make(f"ALE/{game}-v5", frameskip=frameskip, repeat_action_probability=0.0)


gymnasium.register("Buttons-v0", entry_point="tests.picture_env:Buttons")
gymnasium.register("Screen-v0", entry_point=screen)  # type: ignore[arg-type]  # takes no render_mode
