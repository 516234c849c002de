"""Batches for the learner, from whichever shard is ready."""

from __future__ import annotations

import queue
import threading
import time
from collections import abc

import numpy as np
import torch
from numpy.typing import NDArray

from learner.records import Batch, Sequence
from learner.schedules import Horizon
from sbrl.config import Agent
from sbrl.replay.items import Items, ItemShape, future_sequence, n_step_transitions
from sbrl.replay.sampler import DROP_REASONS, ShardSampler

SHARE_BATCHES = 1000  # over about so many batches the shards' shares are measured
PUT_SECONDS = 0.5  # how often a waiting stream looks whether it was cancelled


class SampledBatch:
    """A batch with what is needed to send its priorities home."""

    __slots__ = ("batch", "items")

    def __init__(self, batch: Batch, items: Items) -> None:
        self.batch, self.items = batch, items


class BatchSource:
    """Mixes the shards: each streams on a thread of its own into one short queue, so that none waits for another.

    Each shard's limiter serves it in proportion to what was inserted there, so the mix is right without any weighting here,
    whatever the spread of actors, and with a shard gone.
    """

    def __init__(self, addresses: abc.Sequence[str], shape: ItemShape, agent: Agent, batch_size: int) -> None:
        self._shape, self._agent = shape, agent
        # One batch waits while one is trained on: more would only be staler.
        self._queue: queue.Queue[Items] = queue.Queue(maxsize=1)
        self._stopped = threading.Event()
        self._samplers = [ShardSampler(address, k, shape, batch_size, self._put) for k, address in enumerate(addresses)]
        self._served = np.zeros(len(addresses))  # batches of each shard, older ones counting less
        self._least = np.full(len(addresses), np.inf)  # probability in each shard's latest batch; counts while it is up
        self._batch_size = batch_size
        self.wait_seconds = 0.0
        self.samples_taken = 0

    def start(self) -> None:
        for sampler in self._samplers:
            sampler.start()

    def stop(self) -> None:
        self._stopped.set()
        for sampler in self._samplers:
            sampler.stop()

    def get(self, timeout_seconds: float, horizon: Horizon) -> SampledBatch | None:
        """The next batch, with targets that look as far ahead as `horizon`; None if no shard had one in time."""
        start = time.monotonic()
        try:
            items = self._queue.get(timeout=timeout_seconds)
        except queue.Empty:
            return None
        finally:
            self.wait_seconds += time.monotonic() - start
        self.samples_taken += self._batch_size
        self._served *= 1 - 1 / SHARE_BATCHES
        self._served[items.shard] += 1
        share = self._served[items.shard] / self._served.sum()
        batch = to_batch(items, self._shape.stack, self._agent, horizon, share)
        self._least[items.shard] = float(batch.probability.min())
        up = [k for k, sampler in enumerate(self._samplers) if k == items.shard or sampler.probe.is_up]
        return SampledBatch(batch._replace(least_probability=float(self._least[up].min())), items)

    def update_priorities(self, items: Items, priorities: NDArray[np.float64]) -> None:
        """Sends new priorities to the shard that served `items`."""
        self._samplers[items.shard].update_priorities(items, priorities)

    @property
    def shards_up(self) -> int:
        return sum(sampler.probe.is_up for sampler in self._samplers)

    @property
    def samples_served(self) -> int:
        return sum(sampler.items_served for sampler in self._samplers)

    @property
    def samples_discarded(self) -> int:
        return sum(sampler.items_discarded for sampler in self._samplers)

    @property
    def priorities_evicted(self) -> float:
        return sum(sampler.priorities_evicted for sampler in self._samplers)

    @property
    def priorities_dropped(self) -> dict[str, int]:
        """By reason, one of `DROP_REASONS`."""
        return {reason: sum(sampler.priorities_dropped[reason] for sampler in self._samplers) for reason in DROP_REASONS}

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
