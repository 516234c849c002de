"""ALE games through ALE's own vector environment, with explicit values for every setting of the protocol.

The adapter relies on these facts about ale_py 0.12.1. Each has a test:

- Automatic reset cannot be switched off. In "SameStep" mode a step that ends an episode returns the next episode's first
  observation, and the old episode's last observation in `info["final_obs"]`. So nothing is lost.
- A step that ends an episode does not read its last screen: its observation partly shows the step before. After a terminal
  state this does not matter, because the learner does not use that observation. But it bootstraps from the last observation of
  a truncated episode. So steps are counted here, ALE's own limit (in emulator frames) is never reached, and a truncated game is
  reset by a mask.
- After a reset the stack holds zeros followed by the first frame, as in Dopamine.
- `noop_max` is exclusive.
- Defaults differ from Dopamine's protocol: docs/preprocessing.md lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ale_py
import numpy as np
from ale_py.vector_env import AtariVectorEnv
from numpy.typing import NDArray

from sbrl.config import Env
from sbrl.envs.spec import EnvSpec, StepResult

ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner for every environment


def make_vector_env(env: Env, rom: str, num_envs: int, num_threads: int, picture: Mapping[str, Any]) -> AtariVectorEnv:
    """ALE's vector environment. `picture` sets what is visible of the game and does not influence its course.

    It ends an episode one step after env.max_episode_steps: the caller counts steps and resets earlier.
    """
    return AtariVectorEnv(
        rom,
        num_envs,
        num_threads=num_threads,
        autoreset_mode="SameStep",
        max_num_frames_per_episode=(env.max_episode_steps + 1) * env.frame_skip,  # beyond the caller's own limit
        repeat_action_probability=env.repeat_action_probability,
        full_action_space=env.full_action_space,
        frameskip=env.frame_skip,
        maxpool=True,
        noop_max=env.noop_max + 1,
        episodic_life=False,
        life_loss_info=False,
        reward_clipping=False,
        use_fire_reset=False,
        **picture,
    )


class AtariEnvs:
    """E games of one kind, stepped by native threads."""

    def __init__(self, env: Env, rom: str, num_envs: int, seed: int, num_threads: int) -> None:
        """
        Args:
            rom: ALE's name of the game's ROM, such as ms_pacman.
        """
        self.num_envs = num_envs
        self._seeds = (seed + np.arange(num_envs)) % 2**31  # ALE takes 31 bits
        self._life_loss = env.terminal_on_life_loss
        self._limit = env.max_episode_steps
        self._steps = np.zeros(num_envs, np.int64)  # of the running episodes
        self._lives = np.zeros(num_envs, np.int32)
        self._next: NDArray[Any] | None = None  # first observations of the next episodes
        picture = {"img_height": env.frame_size, "img_width": env.frame_size, "grayscale": True, "stack_num": env.frame_stack}
        self._envs = make_vector_env(env, rom, num_envs, num_threads, picture)
        self.spec = EnvSpec(
            num_actions=len(self._envs.ale.get_action_set()),
            frame_shape=(env.frame_size, env.frame_size),
            frame_dtype=np.dtype(np.uint8),
            stack=env.frame_stack,
            kind="frames",
            clip_rewards=env.clips_rewards,
        )

    def reset(self, mask: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        if self._next is None:
            self._next, info = self._envs.reset(seed=self._seeds)
            self._lives = info["lives"]
        # The step that ends a game also begins the next one. Only truncated games still need a reset.
        cut = self._steps >= self._limit
        if mask is not None:
            cut &= mask
        if cut.any():
            self._next, info = self._envs.reset(options={"reset_mask": cut})
            self._lives = info["lives"]
            self._steps[cut] = 0
        assert self._next is not None
        return self._next

    def step(self, actions: NDArray[np.int64]) -> StepResult:
        observation, reward, terminated, _, info = self._envs.step(actions)
        self._next = observation
        self._steps += 1
        truncated = (self._steps >= self._limit) & ~terminated
        self._steps[terminated] = 0
        if terminated.any():
            observation = observation.copy()
            observation[terminated] = info["final_obs"][terminated]
        lost = (info["lives"] < self._lives) & ~terminated if self._life_loss else np.zeros(self.num_envs, np.bool_)
        self._lives = info["lives"]
        # The emulator's rewards are whole numbers and its frames are bytes: neither can be a bad value.
        return StepResult(observation, reward.astype(np.float32), terminated, truncated, lost, bad=np.zeros_like(terminated))

    def close(self) -> None:
        self._envs.close()
