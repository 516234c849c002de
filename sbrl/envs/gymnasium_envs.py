"""Any other Gymnasium environment with discrete actions: classic control, MinAtar and the like."""

from __future__ import annotations

import logging
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sbrl.config import Env
from sbrl.envs.answers import fault, read_reset, read_step
from sbrl.envs.spec import EnvSpec, StepResult
from sbrl.envs.user_code import CLOSED, MADE, RESET, STEPPED, call, refusal
from sbrl.errors import UsageError

_log = logging.getLogger(__name__)

LARGEST_VECTOR = 4096  # numbers; beyond that it is a picture, for which a dense network is the wrong one


class GymnasiumEnvs:
    """E environments stepped one after the other.

    Whatever their code raises, and whatever they return that Gymnasium's API or their spaces do not allow, is a UsageError.
    """

    def __init__(self, env: Env, num_envs: int, seed: int, clip_rewards: bool, render_mode: str | None = None) -> None:
        """
        Args:
            render_mode: Gymnasium's; "rgb_array" if pictures are wanted (see sbrl.envs.render).

        Raises:
            UsageError: the environment cannot be made (a package is missing, say), its actions are not discrete, or its
                observations are of no kind that is supported.
        """
        self.num_envs, self._id = num_envs, env.id
        rendering: dict[str, Any] = (
            {} if render_mode is None else {"render_mode": render_mode}
        )  # not every environment knows the argument
        # Gymnasium's checker only slows steps down and warns of what the environment's authors could change.
        arguments = {"disable_env_checker": True, **env.kwargs, **rendering}
        try:
            self._envs = [call(env.id, MADE, gymnasium.make, env.name, **arguments) for _ in range(num_envs)]
        except UsageError as error:
            if render_mode is None or not isinstance(error.__cause__, TypeError) or "render_mode" not in str(error.__cause__):
                raise
            raise UsageError(f"env.id={env.id} draws no picture: it takes no render_mode, as Gymnasium's own do") from None
        self._limit = env.max_episode_steps
        self._steps = np.zeros(num_envs, np.int64)
        self._seeds: list[int | None] = [seed + k for k in range(num_envs)]
        self.spec = call(env.id, MADE, make_gymnasium_spec, env.id, self._envs[0], clip_rewards)
        # Kept, for each look-up goes through all wrappers.
        self._space, actions = self._envs[0].observation_space, self._envs[0].action_space
        assert isinstance(actions, spaces.Discrete)  # or there were no spec
        self._start = int(actions.start)
        self._observation = np.zeros((num_envs, *self.spec.observation_shape), self.spec.frame_dtype)

    def reset(self, mask: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        observation = self._observation.copy()
        for k in range(self.num_envs) if mask is None else np.flatnonzero(mask):
            answer = call(self._id, RESET, self._envs[k].reset, seed=self._seeds[k])
            self._seeds[k] = None  # later episodes go on from the generator that the first one seeded
            observation[k] = self._frame(read_reset(self._id, answer), RESET)
            self._steps[k] = 0
        self._observation = observation
        return observation

    def step(self, actions: NDArray[np.int64]) -> StepResult:
        observation = np.empty_like(self._observation)
        reward = np.zeros(self.num_envs, np.float32)
        terminated, truncated = np.zeros(self.num_envs, np.bool_), np.zeros(self.num_envs, np.bool_)
        for k, env in enumerate(self._envs):
            answer = call(self._id, STEPPED, env.step, self._start + int(actions[k]))
            reached, reward[k], terminated[k], truncated[k] = read_step(self._id, answer)
            observation[k] = self._frame(reached, STEPPED)
        self._steps += 1
        truncated |= (self._steps >= self._limit) & ~terminated
        self._observation = observation
        return StepResult(observation, reward, terminated, truncated, np.zeros(self.num_envs, np.bool_))

    def close(self) -> None:
        for env in self._envs:
            try:
                call(self._id, CLOSED, env.close)
            except UsageError as error:  # nothing that was collected is the worse for it
                _log.warning("%s", error)

    def _frame(self, observation: Any, what: str) -> NDArray[Any]:
        """[1, *frame_shape]: channels first for grids, all else flat (numbers one-hot).

        Raises:
            UsageError: it is not what the environment's space says; `what` was done to get it.
        """
        if found := fault(self._space, observation):
            raise refusal(self._id, what, f"its observation {found}")
        if self.spec.kind == "grid":
            frame = np.moveaxis(np.asarray(observation), -1, 0)
        else:
            frame = np.asarray(spaces.flatten(self._space, observation))
        return frame.astype(self.spec.frame_dtype)[None]


def make_gymnasium_spec(env_id: str, env: gymnasium.Env[Any, Any], clip_rewards: bool) -> EnvSpec:
    """The spec of an environment: small grids of 0/1 planes (height, width, channels) stay grids, all else becomes a vector.

    Gymnasium flattens: a number of a discrete space becomes one-hot, tuples and dictionaries are joined.

    Raises:
        UsageError: actions that are not discrete, or other observations.
    """
    actions, observations = env.action_space, env.observation_space
    if not isinstance(actions, spaces.Discrete):
        raise UsageError(
            f"env.id={env_id}: its action space is {actions}; value-based agents need discrete actions (Discrete(n)): "
            f"choose another environment, such as CartPole-v1 or ALE/Pong-v5"
        )
    if isinstance(observations, spaces.Box) and len(observations.shape) == 3 and observations.dtype in (np.bool_, np.uint8):
        height, width, channels = observations.shape
        if max(height, width) <= 32 and float(np.max(observations.high)) <= 1:
            return EnvSpec(int(actions.n), (channels, height, width), np.dtype(np.uint8), 1, "grid", clip_rewards)
    if isinstance(observations, spaces.Space) and observations.is_np_flattenable:
        size = spaces.flatdim(observations)
        if size <= LARGEST_VECTOR:
            return EnvSpec(int(actions.n), (size,), np.dtype(np.float32), 1, "vector", clip_rewards)
    raise UsageError(
        f"env.id={env_id}: its observation space is {observations}; supported are ALE games, grids of 0/1 planes up to 32 x 32 "
        f"(MinAtar) and whatever Gymnasium flattens to a vector of at most {LARGEST_VECTOR} numbers: wrap the environment"
    )
