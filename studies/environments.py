"""Environments that ready studies use beside Gymnasium's own.

Registered on import as `studies.environments:NAME`.

ScaledMountainCar-v0 has observations in [-1, 1] and episodes of 600 steps. PublishedMountainCar-v0 and PublishedAcrobot-v1
are the environments of Ceron and Castro 2021: Acrobot's velocities are divided by 5, and a truncated episode ends in a terminal
state, as in Dopamine at that time, so that nothing is bootstrapped there.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.classic_control import AcrobotEnv, MountainCarEnv
from gymnasium.spaces import Box
from gymnasium.wrappers import RescaleObservation, TimeLimit, TransformObservation

MOUNTAIN_CAR_STEPS, ACROBOT_STEPS = 600, 500
ACROBOT_UNITS = np.array([1, 1, 1, 1, 5, 5], np.float32)  # for the observation's sines, cosines and two velocities

Environment = gymnasium.Env[Any, Any]


class CutIsTheEnd(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A truncated episode ends in a terminal state."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated or truncated, False, info


def published_mountain_car(**arguments: Any) -> Environment:
    """Observations in [-1, 1]."""
    return CutIsTheEnd(TimeLimit(_rescaled(MountainCarEnv(**arguments)), MOUNTAIN_CAR_STEPS))


def published_acrobot(**arguments: Any) -> Environment:
    """Sines and cosines unchanged, velocities in units of 5 rad/s."""
    env = AcrobotEnv(**arguments)
    space = env.observation_space
    assert isinstance(space, Box)
    scaled = Box(space.low / ACROBOT_UNITS, space.high / ACROBOT_UNITS, dtype=np.float32)
    return CutIsTheEnd(TimeLimit(TransformObservation(env, lambda seen: seen / ACROBOT_UNITS, scaled), ACROBOT_STEPS))


def scaled_mountain_car(**arguments: Any) -> Environment:
    """Observations in [-1, 1]."""
    return _rescaled(MountainCarEnv(**arguments))


def _rescaled(env: Environment) -> Environment:
    return RescaleObservation(env, np.float32(-1), np.float32(1))


gymnasium.register("ScaledMountainCar-v0", entry_point=scaled_mountain_car, max_episode_steps=MOUNTAIN_CAR_STEPS)
gymnasium.register("PublishedMountainCar-v0", entry_point=published_mountain_car)
gymnasium.register("PublishedAcrobot-v1", entry_point=published_acrobot)
