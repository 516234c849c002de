"""One environment with a picture for people. The agent's game is exactly the same as without the picture."""

from __future__ import annotations

import os
from typing import Any, Protocol

import ale_py
import numpy as np
from ale_py import roms
from numpy.typing import NDArray

from sbrl.config import Env
from sbrl.envs.atari import make_vector_env
from sbrl.envs.gymnasium_envs import GymnasiumEnvs
from sbrl.envs.make import look_up, make_envs
from sbrl.envs.spec import EnvSpec, StepResult
from sbrl.envs.user_code import describe
from sbrl.errors import RunError, UsageError

ALE_FRAMES_PER_SECOND = 60
USUAL_STEPS_PER_SECOND = 10.0  # if an environment names no speed (MinAtar)


class RenderedEnv(Protocol):
    """A `VectorEnv` of one environment, for one episode."""

    @property
    def spec(self) -> EnvSpec: ...
    @property
    def steps_per_second(self) -> float:
        """Agent steps in a second of real play."""
        ...

    def reset(self) -> NDArray[Any]: ...
    def step(self, actions: NDArray[np.int64]) -> StepResult: ...
    def picture(self) -> NDArray[np.uint8]:
        """The picture of the newest observation, uint8[height, width, 3]."""
        ...

    def close(self) -> None: ...


def make_rendered_env(env: Env, seed: int) -> RenderedEnv:
    """An environment that plays exactly like `make_envs(env, 1, seed)`.

    Raises:
        UsageError: as `make_envs`, or the environment draws no pictures.
    """
    registration = look_up(env.id)
    if env.is_atari:
        return RenderedAtari(env, registration.kwargs["game"], seed)
    return RenderedGymnasium(env, seed)


class RenderedAtari:
    """Two emulators of one game in step: the agent sees the frames of one, people see the screen of the other.

    ALE's vector environment returns only its observations as pictures. But the same seed and the same actions give the same
    game, even with sticky actions. So a second emulator that observes the coloured screen shows what happens in the first.
    """

    def __init__(self, env: Env, rom: str, seed: int) -> None:
        height, width = _screen_size(rom)
        picture = {"img_height": height, "img_width": width, "grayscale": False, "stack_num": 1}
        self._seed = seed
        self._game = make_envs(env, num_envs=1, seed=seed)
        self._screen = make_vector_env(env, rom, num_envs=1, num_threads=1, picture=picture)
        self._picture = np.zeros((height, width, 3), np.uint8)
        self.spec = self._game.spec
        self.steps_per_second = ALE_FRAMES_PER_SECOND / env.frame_skip

    def reset(self) -> NDArray[Any]:
        observation, _ = self._screen.reset(seed=self._seed)
        self._picture = observation[0, 0]
        return self._game.reset()

    def step(self, actions: NDArray[np.int64]) -> StepResult:
        observation, reward, terminated, _, info = self._screen.step(actions)
        result = self._game.step(actions)
        self._picture = (info["final_obs"] if terminated[0] else observation)[0, 0]
        if reward[0] != result.reward[0] or terminated[0] != result.terminated[0]:
            raise RunError("the emulator that shows the screen has lost step with the one that the agent plays")
        return result

    def picture(self) -> NDArray[np.uint8]:
        return self._picture

    def close(self) -> None:
        self._game.close()
        self._screen.close()


class RenderedGymnasium(GymnasiumEnvs):
    """An environment with Gymnasium's own pictures."""

    def __init__(self, env: Env, seed: int) -> None:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # else pygame, which draws classic control, looks for a display
        super().__init__(env, num_envs=1, seed=seed, render_mode="rgb_array")
        self.steps_per_second = float(self._envs[0].metadata.get("render_fps") or USUAL_STEPS_PER_SECOND)

    def picture(self) -> NDArray[np.uint8]:
        """
        Raises:
            UsageError: the environment draws no picture, or needs a package for it that is not installed.
        """
        env = self._envs[0]
        try:
            drawn = env.render()
        except Exception as error:  # mostly a missing package, which the error names
            raise UsageError(f"env.id={self._env.id} draws no picture: {describe(error)}") from error
        picture = np.asarray(drawn)
        if picture.ndim != 3 or picture.shape[2] != 3:
            raise UsageError(f"env.id={self._env.id} draws no picture: its render() gives {type(drawn).__name__}")
        if picture.dtype != np.uint8:  # MinAtar's values are fractions
            picture = np.round(255 * picture).astype(np.uint8)
        return picture


def _screen_size(rom: str) -> tuple[int, int]:
    """Height and width of a game's screen in pixels: 210 x 160 for most, 250 x 160 for some."""
    path = roms.get_rom_path(rom)
    assert path is not None  # the game is registered
    emulator = ale_py.ALEInterface()
    emulator.loadROM(path)
    height, width = emulator.getScreenDims()
    return int(height), int(width)
