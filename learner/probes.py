"""Batches that diagnostics look at beside those that are trained on."""

from __future__ import annotations

import torch

from learner.algorithm.schedules import HorizonSchedule
from learner.memory.priorities import Draw
from learner.memory.replay import ReplayMemory
from learner.records import Batch
from sbrl.config import Config

PROBE_TRANSITIONS = 256


class MemoryProbes:
    """The newest transitions of a replay memory, and as many from all of it, drawn uniformly.

    Training is not disturbed: what is drawn has a generator of its own, and no priority is set.
    """

    def __init__(self, memory: ReplayMemory, config: Config, seed: int) -> None:
        self._memory, self._horizons = memory, HorizonSchedule.of(config)
        self._jumps = config.agent.jumps
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, updates: int) -> dict[str, Batch]:
        """By name, with the horizon of the update after `updates`; none while the memory holds less than four probes."""
        if self._memory.size < 4 * PROBE_TRANSITIONS:
            return {}
        return {"newest": self.gather(self._memory.newest(PROBE_TRANSITIONS), updates), "uniform": self.uniform(updates)}

    def uniform(self, updates: int) -> Batch:
        """A probe from all of the memory, which must not be empty."""
        return self.gather(self._memory.spread(PROBE_TRANSITIONS, self._generator), updates)

    def gather(self, sample: Draw, updates: int) -> Batch:
        return self._memory.gather(sample, *self._horizons.at(updates), self._jumps)
