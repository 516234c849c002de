"""Environments of ready studies beside Gymnasium's own.

Registered on import: `studies.environments:NAME`.

Observations are scaled to [-1, 1] and episodes are as long as in Ceron and Castro 2021, whose settings the controls have.
"""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium.wrappers import RescaleObservation

EPISODE_STEPS = {"MountainCar-v0": 600, "Acrobot-v1": 500}


def register_scaled() -> None:
    """Registers ScaledMountainCar-v0 and ScaledAcrobot-v1."""
    for env_id, steps in EPISODE_STEPS.items():
        plain = gymnasium.spec(env_id)
        gymnasium.register(
            f"Scaled{env_id}",
            entry_point=plain.entry_point,
            max_episode_steps=steps,
            additional_wrappers=(RescaleObservation.wrapper_spec(min_obs=np.float32(-1), max_obs=np.float32(1)),),
        )


register_scaled()
