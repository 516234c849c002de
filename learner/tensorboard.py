"""Writes scalars to TensorBoard's files."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

# TensorBoard's own switch for doing without TensorFlow, which takes seconds to import and is not needed for local files.
sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))

from torch.utils.tensorboard import SummaryWriter  # noqa: E402


class TensorBoard:
    """Writes to one event file in `directory`."""

    def __init__(self, directory: Path) -> None:
        logging.getLogger("tensorboard").setLevel(logging.ERROR)
        self._writer = SummaryWriter(log_dir=str(directory))

    def write(self, scalars: Mapping[str, float], env_steps: int) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, env_steps)

    def close(self) -> None:
        self._writer.close()
