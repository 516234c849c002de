"""Batches from the learner's own replay memory. If the replay does not fit there, see remote_batches."""

from __future__ import annotations

from collections import abc
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.algorithm.compilation import Compiler, uncompiled
from learner.algorithm.schedules import Horizon
from learner.memory.priorities import Draw
from learner.memory.replay import ReplayMemory
from learner.records import Batch
from sbrl.config import Agent


class Drawn(NamedTuple):
    """A batch with what is needed to set its priorities."""

    batch: Batch
    source: Any  # identifies the drawn transitions to the source
    weights_versions: abc.Callable[[], NDArray[np.int64]]  # [B], versions of the weights that collected the transitions


class HorizonTensors(NamedTuple):
    """A horizon on the device, where it can change under a captured update."""

    n_step: Tensor  # int64[]
    discount: Tensor  # float64[]


class Batches(Protocol):
    """A source of batches."""

    @property
    def is_ready(self) -> bool:
        """Whether there is anything to draw from."""
        ...

    @property
    def priorities_ignored(self) -> int:
        """Number of priorities that were not set: the transition was gone, or the priority was not finite."""
        ...

    def next(self, horizon: Horizon, timeout: float) -> Drawn | None:
        """The next batch, with targets that look `horizon` ahead; None if no batch came within `timeout` seconds."""
        ...

    def update_priorities(self, drawn: Drawn, priorities: Tensor) -> None:
        """Sets the priorities, float64[B], of a batch's transitions."""
        ...

    def max_priority(self) -> float:
        """The highest priority so far, at least 1. New transitions get it. Waits for the device."""
        ...


class MemoryBatches:
    """Batches from a memory on the learner's device. Drawing never waits, and a CUDA graph can capture it."""

    def __init__(self, memory: ReplayMemory, agent: Agent, batch_size: int, compiler: Compiler[Any] = uncompiled) -> None:
        self._memory, self._batch_size = memory, batch_size
        self._jumps = agent.jumps
        self._draw, self._set_priorities = compiler(self._draw_batch), compiler(memory.set_priorities)

    @property
    def is_ready(self) -> bool:
        return self._memory.size > 0

    @property
    def priorities_ignored(self) -> int:
        return self._memory.priorities_outdated + self._memory.priorities_unusable

    @property
    def generator(self) -> torch.Generator:
        """The generator that sampling draws from."""
        return self._memory.generator

    def next(self, horizon: Horizon | HorizonTensors, timeout: float = 0.0) -> Drawn:
        sample, batch = self._draw(self._memory.uniform(self._batch_size), horizon)
        return Drawn(batch, sample, lambda: self._memory.weights_version(sample).long().cpu().numpy())

    def update_priorities(self, drawn: Drawn, priorities: Tensor) -> None:
        self._set_priorities(drawn.source, priorities)

    def max_priority(self) -> float:
        return self._memory.max_priority

    def _draw_batch(self, uniform: Tensor, horizon: Horizon | HorizonTensors) -> tuple[Draw, Batch]:
        sample = self._memory.draw(uniform)
        return sample, self._memory.gather(sample, horizon.n_step, horizon.discount, self._jumps)
