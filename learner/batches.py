"""Where the learner's batches come from: its own replay memory, or, where that cannot hold the replay, Reverb."""

from __future__ import annotations

import queue
import threading
from collections import abc
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.compilation import Compiler, uncompiled
from learner.memory.replay import ReplayMemory, Sample
from learner.records import Batch, HostCopy, Sequence
from learner.schedules import Horizon
from sbrl.config import Agent
from sbrl.replay.items import Items, ItemShape, future_sequence, n_step_transitions, weights_versions
from sbrl.replay.sampler import ShardSampler

SHARE_BATCHES = 1000  # over about so many batches the shards' shares are measured
PUT_SECONDS = 0.5  # how often a waiting stream looks whether it was cancelled


class Drawn(NamedTuple):
    """A batch with what is needed to set its priorities."""

    batch: Batch
    source: Any  # the source's own name for what it has drawn
    weights_versions: abc.Callable[[], NDArray[np.int64]]  # [B], the versions that its transitions were collected with


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
        """Priorities that were not set, for their transitions were gone or they were not finite."""
        ...

    def next(self, horizon: Horizon, timeout: float) -> Drawn | None:
        """The next batch, with targets that look as far ahead as `horizon`; None if there was none within `timeout` seconds."""
        ...

    def update_priorities(self, drawn: Drawn, priorities: Tensor) -> None:
        """Sets the priorities, float64[B], of a batch's transitions."""
        ...

    def max_priority(self) -> float:
        """The highest priority so far, at least 1: new transitions get it. Waits for the device."""
        ...


class MemoryBatches:
    """Batches from a memory on the learner's device: drawing one waits for nothing, and a graph may capture it."""

    def __init__(self, memory: ReplayMemory, agent: Agent, batch_size: int, compiler: Compiler[Any] = uncompiled) -> None:
        self._memory, self._batch_size = memory, batch_size
        self._jumps = agent.spr_jumps if agent.predicts_itself else 0
        self._draw, self._set_priorities = compiler(self._draw_batch), compiler(memory.set_priorities)

    @property
    def is_ready(self) -> bool:
        return self._memory.size > 0

    @property
    def priorities_ignored(self) -> int:
        return self._memory.priorities_outdated + self._memory.priorities_unusable

    @property
    def generator(self) -> torch.Generator:
        """Draws what is sampled."""
        return self._memory.generator

    def next(self, horizon: Horizon | HorizonTensors, timeout: float = 0.0) -> Drawn:
        sample, batch = self._draw(self._memory.uniform(self._batch_size), horizon)
        return Drawn(batch, sample, lambda: self._memory.weights_version(sample).long().cpu().numpy())

    def update_priorities(self, drawn: Drawn, priorities: Tensor) -> None:
        self._set_priorities(drawn.source, priorities)

    def max_priority(self) -> float:
        return self._memory.max_priority

    def _draw_batch(self, uniform: Tensor, horizon: Horizon | HorizonTensors) -> tuple[Sample, Batch]:
        sample = self._memory.draw(uniform)
        return sample, self._memory.gather(sample, horizon.n_step, horizon.discount, self._jumps)


class ReverbBatches:
    """Mixes the shards' own samples: each streams on a thread of its own into one short queue, and none waits for another."""

    def __init__(
        self,
        addresses: abc.Sequence[str],
        shape: ItemShape,
        agent: Agent,
        batch_size: int,
        prioritized: bool,
        max_priority: float,
    ) -> None:
        """Args: max_priority: the highest so far, of an earlier process."""
        self._shape, self._agent, self._batch_size, self._prioritized = shape, agent, batch_size, prioritized
        # One batch waits while one is trained on: more would only be staler.
        self._queue: queue.Queue[Items] = queue.Queue(maxsize=1)
        self._stopped = threading.Event()
        self._samplers = [ShardSampler(address, k, shape, batch_size, self._put) for k, address in enumerate(addresses)]
        self._served = np.zeros(len(addresses))  # batches of each shard, older ones counting less
        self._least = np.full(len(addresses), np.inf)  # probability in each shard's latest batch; counts while it is up
        self._max_priority = max_priority
        self._returning: tuple[Items, HostCopy] | None = None  # priorities on their way from the device

    def start(self) -> None:
        for sampler in self._samplers:
            sampler.start()

    def stop(self) -> None:
        self._stopped.set()
        for sampler in self._samplers:
            sampler.stop()

    @property
    def is_ready(self) -> bool:
        return True  # `next` waits

    @property
    def priorities_ignored(self) -> int:
        return sum(sum(sampler.priorities_dropped.values()) for sampler in self._samplers)

    def next(self, horizon: Horizon, timeout: float) -> Drawn | None:
        try:
            items = self._queue.get(timeout=timeout)
        except queue.Empty:
            return None
        self._served *= 1 - 1 / SHARE_BATCHES
        self._served[items.shard] += 1
        share = self._served[items.shard] / self._served.sum()
        batch = to_batch(items, self._shape.stack, self._agent, horizon, share)
        self._least[items.shard] = float(batch.probability.min())
        up = [k for k, sampler in enumerate(self._samplers) if k == items.shard or sampler.is_up]
        batch = batch._replace(least_probability=float(self._least[up].min()))
        return Drawn(batch, items, lambda: weights_versions(items))

    def update_priorities(self, drawn: Drawn, priorities: Tensor) -> None:
        """Sends the priorities of the batch before, which have left the device by now without anyone having waited for them."""
        if not self._prioritized:
            return
        if self._returning is not None:
            items, copy = self._returning
            values = copy.numpy()
            self._max_priority = max(self._max_priority, float(values.max()))
            self._samplers[items.shard].update_priorities(items, values)
        self._returning = (drawn.source, HostCopy(priorities))

    def max_priority(self) -> float:
        return self._max_priority

    def _put(self, items: Items, cancelled: threading.Event) -> bool:
        while not (cancelled.is_set() or self._stopped.is_set()):
            try:
                self._queue.put(items, timeout=PUT_SECONDS)
                return True
            except queue.Full:
                continue
        return False


def to_batch(items: Items, stack: int, agent: Agent, horizon: Horizon, shard_share: float) -> Batch:
    """The update's tensors from a batch of items.

    Args:
        horizon: n and the discount of the moment.
        shard_share: the part of all batches that their shard serves; an item's probability of being sampled is this times
            its probability in the shard.
    """
    transitions = n_step_transitions(items, stack, horizon.n_step, horizon.discount)
    sequence = None
    if agent.spr_weight > 0:
        sequence = Sequence(*(torch.from_numpy(array) for array in future_sequence(items, stack, agent.spr_jumps)))
    return Batch(
        s_tm1=torch.from_numpy(transitions.s_tm1.copy()),  # TensorFlow's arrays are read-only
        a_tm1=torch.from_numpy(transitions.a_tm1),
        r_t=torch.from_numpy(transitions.r_t),
        discount_t=torch.from_numpy(transitions.discount_t),
        s_t=torch.from_numpy(transitions.s_t),
        probability=torch.from_numpy(items.probability * shard_share),
        sequence=sequence,
    )
