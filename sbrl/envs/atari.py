"""ALE games through ALE's own vector environment, with every setting of the protocol given.

Facts of ale_py 0.12.1 that the adapter relies on, each with a test:

- Automatic reset cannot be switched off. In its "SameStep" mode a step that ends an episode returns the next episode's first
  observation, and the last one of the old episode in `info["final_obs"]`: nothing is lost.
- After a reset the stack holds the first frame last and zeros before it, as in Dopamine.
- `max_num_frames_per_episode` counts emulator frames, so agent steps times the frame skip.
- Defaults differ from Dopamine's protocol (no sticky actions, up to 30 no-ops, a fire action after resets, clipped rewards).
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

PREFIX = "ALE/"


def make_vector_env(env: Env, rom: str, num_envs: int, num_threads: int, picture: Mapping[str, Any]) -> AtariVectorEnv:
    """ALE's vector environment; `picture` says what is seen of the game and has no influence on how it goes."""
    return AtariVectorEnv(
        rom,
        num_envs,
        num_threads=num_threads,
        autoreset_mode="SameStep",
        max_num_frames_per_episode=env.max_episode_steps * env.frame_skip,
        repeat_action_probability=env.repeat_action_probability,
        full_action_space=env.full_action_space,
        frameskip=env.frame_skip,
        maxpool=True,
        noop_max=env.noop_max,
        episodic_life=False,
        life_loss_info=False,
        reward_clipping=False,
        use_fire_reset=False,
        **picture,
    )


class AtariEnvs:
    """E games of one kind, stepped by native threads."""

    def __init__(self, env: Env, rom: str, num_envs: int, seed: int, num_threads: int, clip_rewards: bool) -> None:
        """
        Args:
            rom: ALE's name of the game's ROM, such as ms_pacman.
        """
        self.num_envs = num_envs
        self._seeds = (seed + np.arange(num_envs)) % 2**31  # ALE takes 31 bits
        self._life_loss = env.terminal_on_life_loss
        self._lives = np.zeros(num_envs, np.int32)
        self._next: NDArray[Any] | None = None  # first observations of the episodes to come
        picture = {"img_height": env.frame_size, "img_width": env.frame_size, "grayscale": True, "stack_num": env.frame_stack}
        self._envs = make_vector_env(env, rom, num_envs, num_threads, picture)
        self.spec = EnvSpec(
            num_actions=len(self._envs.ale.get_action_set()),
            frame_shape=(env.frame_size, env.frame_size),
            frame_dtype=np.dtype(np.uint8),
            stack=env.frame_stack,
            kind="frames",
            clip_rewards=clip_rewards,
        )

    def reset(self, mask: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        if self._next is None:
            self._next, info = self._envs.reset(seed=self._seeds)
            self._lives = info["lives"]
            assert self._next is not None
        return self._next  # ended episodes were begun anew by the step that ended them

    def step(self, actions: NDArray[np.int64]) -> StepResult:
        observation, reward, terminated, truncated, info = self._envs.step(actions)
        done = terminated | truncated
        self._next = observation
        if done.any():
            observation = observation.copy()
            observation[done] = info["final_obs"][done]
        lost = (info["lives"] < self._lives) & ~done if self._life_loss else np.zeros(self.num_envs, np.bool_)
        self._lives = info["lives"]
        return StepResult(observation, reward.astype(np.float32), terminated, truncated, lost)

    def close(self) -> None:
        self._envs.close()
