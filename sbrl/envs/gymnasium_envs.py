"""All other Gymnasium environments with discrete actions: classic control, MinAtar, pictures and so on."""

from __future__ import annotations

import logging
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sbrl.config import Env
from sbrl.envs.pictures import FrameMaker, NoPictureError, layout_of
from sbrl.envs.spec import EnvSpec, StepResult
from sbrl.envs.user_code import CLOSED, MADE, RESET, STEPPED, call, read_reset, read_step
from sbrl.envs.values import BadValueError, check_observation, to_flag, to_reward
from sbrl.errors import FinalError, RunError, UsageError

logger = logging.getLogger(__name__)

BAD_IN_A_ROW = 10  # bad values without a good step in between: nothing can be learned from such an environment
LARGEST_VECTOR = 4096  # numbers; for more, a dense network is the wrong one
LARGEST_GRID = 32  # cells high and wide


class GymnasiumEnvs:
    """E environments stepped one after the other.

    Any exception in their code, and any answer that violates Gymnasium's API, becomes one of our errors, in one line.
    """

    def __init__(self, env: Env, num_envs: int, seed: int, render_mode: str | None = None) -> None:
        """
        Args:
            render_mode: Gymnasium's; "rgb_array" if pictures are wanted (see sbrl.envs.render).

        Raises:
            UsageError: the environment cannot be made (for example, a package is missing), its actions are not discrete, or
                its observations are not supported.
        """
        self.num_envs = num_envs
        rendering: dict[str, Any] = (
            {} if render_mode is None else {"render_mode": render_mode}
        )  # not every environment knows the argument
        # Gymnasium's checker only slows steps down, and its warnings are for the environment's authors.
        arguments = {"disable_env_checker": True, **env.kwargs, **rendering}
        try:
            self._envs = [call(env.id, MADE, gymnasium.make, env.name, **arguments) for _ in range(num_envs)]
        except UsageError as error:
            if render_mode is None or not isinstance(error.__cause__, TypeError) or "render_mode" not in str(error.__cause__):
                raise
            raise UsageError(f"env.id={env.id} draws no picture: it takes no render_mode, as Gymnasium's own do") from None
        self._env = env
        self._bad = 0  # bad values so far
        self._bad_in_a_row = np.zeros(num_envs, np.int64)
        self._steps = np.zeros(num_envs, np.int64)
        self._seeds: list[int | None] = [seed + k for k in range(num_envs)]
        self.spec = call(env.id, MADE, make_gymnasium_spec, env, self._envs[0])
        # Kept here, because each look-up goes through all wrappers.
        self._space, actions = self._envs[0].observation_space, self._envs[0].action_space
        assert isinstance(actions, spaces.Discrete)  # else there would be no spec
        self._start = int(actions.start)
        self._make_frame = FrameMaker(layout_of(self._space), env.frame_size) if self.spec.kind == "frames" else None
        self._observation = np.zeros((num_envs, *self.spec.observation_shape), self.spec.frame_dtype)

    def reset(self, mask: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        observation = self._observation.copy()
        for k in range(self.num_envs) if mask is None else np.flatnonzero(mask):
            observation[k, :-1] = 0
            observation[k, -1] = self._first_frame(k)
            self._steps[k] = 0
        self._observation = observation
        return observation

    def step(self, actions: NDArray[np.int64]) -> StepResult:
        observation = np.empty_like(self._observation)
        reward = np.zeros(self.num_envs, np.float32)
        terminated, truncated, bad = (np.zeros(self.num_envs, np.bool_) for _ in range(3))
        self._steps += 1
        for k, env in enumerate(self._envs):
            answer = call(self._env.id, STEPPED, env.step, self._start + int(actions[k]))
            reached, gained, ended, cut = read_step(self._env.id, answer)
            try:
                checked = to_reward(gained), to_flag("terminated", ended), to_flag("truncated", cut), self._frame(reached)
            except BadValueError as error:
                self._refuse(k, error, f"in step {self._steps[k]} of an episode")
                bad[k], observation[k] = True, self._observation[k]
            else:
                observation[k, :-1] = self._observation[k, 1:]
                reward[k], terminated[k], truncated[k], observation[k, -1] = checked
                self._bad_in_a_row[k] = 0
        truncated |= (self._steps >= self._env.max_episode_steps) & ~(terminated | bad)
        self._observation = observation
        return StepResult(observation, reward, terminated, truncated, np.zeros(self.num_envs, np.bool_), bad)

    def close(self) -> None:
        for env in self._envs:
            try:
                call(self._env.id, CLOSED, env.close)
            except RunError as error:  # it does not affect the collected data
                logger.warning("%s", error)

    def _first_frame(self, k: int) -> NDArray[Any]:
        """Begins an episode of environment `k`. Returns its first observation as `_frame` does."""
        while True:
            answer = call(self._env.id, RESET, self._envs[k].reset, seed=self._seeds[k])
            self._seeds[k] = None  # later episodes continue with the generator that the first one seeded
            try:
                return self._frame(read_reset(self._env.id, answer))
            except BadValueError as error:
                self._refuse(k, error, "at a reset")

    def _refuse(self, k: int, error: BadValueError, when: str) -> None:
        """Counts a bad value of environment `k` and logs it.

        Raises:
            FinalError: bad values end the run, or there were BAD_IN_A_ROW of them without a good step in between.
        """
        self._bad += 1
        self._bad_in_a_row[k] += 1
        text = f"env.id={self._env.id} returned {error} ({when})"
        if self._env.on_bad_value == "stop":
            raise FinalError(
                f"{text}: mend the environment, or set env.on_bad_value=drop_episode, which drops the rest of such an episode, "
                f"counts it and goes on"
            )
        if self._bad_in_a_row[k] >= BAD_IN_A_ROW:
            raise FinalError(
                f"{text}, the last of {BAD_IN_A_ROW} bad values without a good step between: there is nothing to learn from; "
                f"mend the environment"
            )
        if self._bad.bit_count() == 1:  # 1, 2, 4, ...: a line for each would fill the log
            logger.warning("%s: the rest of the episode is dropped (bad values so far: %d)", text, self._bad)

    def _frame(self, observation: Any) -> NDArray[Any]:
        """[*frame_shape]: frames for pictures, channels first for grids, all else flat (discrete numbers one-hot).

        Raises:
            BadValueError: it is a bad value.
        """
        check_observation(self._space, observation)
        if self._make_frame is not None:
            return self._make_frame(np.asarray(observation, np.uint8))
        if self.spec.kind == "grid":
            frame = np.moveaxis(np.asarray(observation), -1, 0)
        else:
            frame = np.asarray(spaces.flatten(self._space, observation))
        return frame.astype(self.spec.frame_dtype)


def make_gymnasium_spec(env: Env, made: gymnasium.Env[Any, Any]) -> EnvSpec:
    """The spec of `made`, which `env` describes: a grid, frames, or else a vector.

    Small grids of 0/1 planes (height, width, channels) stay grids, and pictures become stacked frames (`sbrl.envs.pictures`).
    Gymnasium flattens everything else: numbers of discrete spaces become one-hot, tuples and dictionaries are joined.

    Raises:
        UsageError: actions that are not discrete, or unsupported observations.
    """
    actions, observations = made.action_space, made.observation_space
    if not isinstance(actions, spaces.Discrete):
        raise UsageError(
            f"env.id={env.id}: its action space is {actions}; value-based agents need discrete actions (Discrete(n)): "
            f"choose another environment, such as CartPole-v1 or ALE/Pong-v5"
        )
    num_actions = int(actions.n)
    if isinstance(observations, spaces.Box) and len(observations.shape) == 3 and observations.dtype in (np.bool_, np.uint8):
        height, width, channels = observations.shape
        if 0 not in observations.shape and max(height, width) <= LARGEST_GRID and float(np.max(observations.high)) <= 1:
            return EnvSpec(num_actions, (channels, height, width), np.dtype(np.uint8), 1, "grid", env.clips_rewards)
    try:
        layout_of(observations)
        frame_shape = (env.frame_size, env.frame_size)
        return EnvSpec(num_actions, frame_shape, np.dtype(np.uint8), env.frame_stack, "frames", env.clips_rewards)
    except NoPictureError as error:
        reason = error
    if isinstance(observations, spaces.Space) and observations.is_np_flattenable:
        size = spaces.flatdim(observations)
        if 0 < size <= LARGEST_VECTOR:
            return EnvSpec(num_actions, (size,), np.dtype(np.float32), 1, "vector", env.clips_rewards)
    raise UsageError(
        f"env.id={env.id}: its observation space is {observations}; {reason}; supported are ALE games, pictures, grids of 0/1 "
        f"planes up to {LARGEST_GRID} x {LARGEST_GRID} (MinAtar) and whatever Gymnasium flattens to a vector of 1 to "
        f"{LARGEST_VECTOR} numbers"
    )
