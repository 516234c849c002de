"""Named settings, each only what differs from the defaults of `sbrl.config`, which are Dopamine's for QR-DQN with batch 8."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEFAULT_PRESET = "small-batch"

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Obando-Ceron, Bellemare and Castro 2023: Dopamine's QR-DQN with batch 8 in place of 32.
    "small-batch": {
        "agent": {"algorithm": "qr-dqn", "n_step": 3},
        "learner": {"batch_size": 8, "updates_per_step": 0.25},
    },
    # The baseline it is compared with: Dopamine's QR-DQN as published.
    "dopamine-qr-dqn": {
        "agent": {"algorithm": "qr-dqn", "n_step": 3},
        "learner": {"batch_size": 32, "updates_per_step": 0.25},
    },
}
