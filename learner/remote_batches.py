"""The learner's batches if its memory cannot hold the replay. Reverb samples them, each from one shard."""

from __future__ import annotations

import queue
import threading
from collections import abc

import numpy as np
import torch
from torch import Tensor

from learner.algorithm.schedules import Horizon
from learner.batches import Drawn
from learner.records import Batch, HostCopy, Sequence
from sbrl.config import Agent
from sbrl.replay.items import Items, ItemShape, future_sequence, n_step_transitions, weights_versions
from sbrl.replay.sampler import ShardSampler

SHARE_BATCHES = 1000  # the shards' shares are measured over about this many batches
PUT_SECONDS = 0.5  # how often a waiting stream checks whether it was cancelled


class ReverbBatches:
    """Mixes the shards' samples. Each shard streams into one short queue, on its own thread, and none waits for another."""

    def __init__(
        self,
        addresses: abc.Sequence[str],
        shape: ItemShape,
        agent: Agent,
        batch_size: int,
        prioritized: bool,
        max_priority: float,
    ) -> None:
        """Args: max_priority: the highest priority so far, from earlier processes."""
        self._shape, self._agent, self._batch_size, self._prioritized = shape, agent, batch_size, prioritized
        # One batch waits while another is trained on. With more, batches would only be staler.
        self._queue: queue.Queue[Items] = queue.Queue(maxsize=1)
        self._stopped = threading.Event()
        self._samplers = [ShardSampler(address, k, shape, batch_size, self._put) for k, address in enumerate(addresses)]
        self._served = np.zeros(len(addresses))  # batches from each shard; older ones count less
        self._least = np.full(len(addresses), np.inf)  # least probability in each shard's latest batch; used while it is up
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
        return True  # `next` does the waiting

    @property
    def priorities_ignored(self) -> int:
        return sum(sampler.priorities_dropped for sampler in self._samplers)

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
        """Sends the priorities of the previous batch: by now they have left the device, so nothing waits for them."""
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
        horizon: the present n and discount.
        shard_share: the fraction of all batches that the items' shard serves. An item's probability of being sampled is this
            times its probability in the shard.
    """
    transitions = n_step_transitions(items, stack, horizon.n_step, horizon.discount)
    sequence = None
    if agent.predicts_itself:
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
