"""Prioritized sampling from a real Reverb table, bit-reproducible from a seed: for one process that writes and samples in turn.

Reverb draws its samples from a generator that cannot be seeded. Its heap selector, however, is deterministic, and prioritized
sampling can be put into its order: give every item a clock that rings after a time drawn from an exponential distribution with
the item's priority as rate, sample the item whose clock rings first, and draw that clock anew. The next to ring is item i with
probability p_i / sum(p), independently of the past, because exponential clocks have no memory. So Reverb's own priority holds
the ringing times, and its heap samples exactly in proportion to ours.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbrl.replay.items import TABLE, Items
from sbrl.replay.table import ShardServer


class ClockSampler:
    """Draws batches from a `ShardServer` made with `deterministic=True`."""

    def __init__(self, server: ShardServer, capacity: int, prioritized: bool, seed: int) -> None:
        """
        Args:
            server: whose table samples the lowest priority first and evicts the oldest item.
            capacity: of its table.
            prioritized: sample in proportion to the priorities that `update_priorities` sets; uniformly otherwise.
        """
        self._client = server.client
        self._capacity, self._prioritized = capacity, prioritized
        self._generator = np.random.default_rng(seed)
        self._now = 0.0  # the last ringing time
        self._rates: deque[float] = deque()  # of the items in the table, oldest first
        self._evicted = 0
        self._names: deque[tuple[int, int]] = deque()  # (env, step) of the same
        self._ordinals: dict[tuple[int, int], int] = {}  # (env, step) -> place in the order of insertion, of the same
        self._ordinal_of_key: dict[int, int] = {}  # of those sampled yet
        self._key_of_ordinal: dict[int, int] = {}
        self._total_rate = 0.0
        self._max_rate = 1.0  # of all there were: new items are given it, as the learner's actors do

    def insertion_priority(self, env: int, step: int) -> float:
        """The first ringing time of an item about to be inserted; items must be inserted in the order of these calls."""
        self._ordinals[env, step] = self._evicted + len(self._rates)
        self._names.append((env, step))
        self._rates.append(self._max_rate)
        self._total_rate += self._max_rate
        if len(self._rates) > self._capacity:
            self._total_rate -= self._rates.popleft()
            del self._ordinals[self._names.popleft()]
            key = self._key_of_ordinal.pop(self._evicted, None)
            if key is not None:
                del self._ordinal_of_key[key]
            self._evicted += 1
        return self._ring(self._max_rate)

    def sample(self, batch_size: int) -> Items:
        """The next `batch_size` items."""
        samples = [self._sample_one() for _ in range(batch_size)]
        columns = {name: np.stack([data[name] for data, _, _ in samples]) for name in samples[0][0]}
        return Items.from_columns(
            columns,
            key=np.array([key for _, key, _ in samples], np.uint64),
            probability=np.array([probability for _, _, probability in samples]),
            table_size=len(self._rates),
            shard=0,
        )

    def update_priorities(self, keys: NDArray[np.uint64], priorities: NDArray[np.float64]) -> None:
        """Sets items' rates and draws their clocks anew, which changes nothing but the rate: clocks have no memory."""
        if not self._prioritized:
            return
        clocks = {}
        for key, priority in zip(keys.tolist(), priorities.tolist(), strict=True):
            if key not in self._ordinal_of_key:
                continue  # evicted since it was sampled
            place = self._ordinal_of_key[key] - self._evicted
            self._total_rate += priority - self._rates[place]
            self._rates[place] = priority
            self._max_rate = max(self._max_rate, priority)
            clocks[key] = self._ring(priority)
        self._client.mutate_priorities(TABLE, clocks)

    def _sample_one(self) -> tuple[dict[str, Any], int, float]:
        sample = next(iter(self._client.sample(TABLE, 1, emit_timesteps=False, unpack_as_table_signature=True)))
        key, self._now = int(sample.info.key), float(sample.info.priority)
        _, _, env, step, _ = sample.data["meta"][0].tolist()
        ordinal = self._ordinal_of_key[key] = self._ordinals[env, step]
        self._key_of_ordinal[ordinal] = key
        rate = self._rates[ordinal - self._evicted]
        self._client.mutate_priorities(TABLE, {key: self._ring(rate)})
        return sample.data, key, rate / self._total_rate

    def _ring(self, rate: float) -> float:
        return self._now + float(self._generator.exponential()) / rate
