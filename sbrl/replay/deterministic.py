"""Prioritized sampling from a real Reverb table, bit-reproducible from a seed: for one process that writes and samples in turn.

Reverb draws its samples from a generator that cannot be seeded. Its heap selector, however, is deterministic, and prioritized
sampling can be put into its order: give every item a clock that rings after a time drawn from an exponential distribution with
the item's priority as rate, sample the item whose clock rings first, and draw that clock anew. The next to ring is item i with
probability p_i / sum(p), independently of the past, because exponential clocks have no memory. So Reverb's own priority holds
the ringing times, and its heap samples exactly in proportion to ours.

A sample through Reverb takes a millisecond, so items that were sampled once are held here, up to a limit. Reverb's clock of a
held item never rings: what its heap serves next is the one, of all it alone has, whose clock rings first.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sbrl.replay.items import TABLE, Items
from sbrl.replay.table import ShardServer

HELD_BYTES = 512 * 2**20


class _HeldItem(NamedTuple):
    """An item that needs not be fetched from Reverb again."""

    key: int  # Reverb's
    columns: Mapping[str, NDArray[Any]]

    @property
    def num_bytes(self) -> int:
        return sum(column.nbytes for column in self.columns.values())


class ClockSampler:
    """Draws batches from a `ShardServer` made with `deterministic=True`.

    An item's ordinal is its place in the order of insertion.
    """

    def __init__(
        self, server: ShardServer, capacity: int, prioritized: bool, seed: int, max_held_bytes: int = HELD_BYTES
    ) -> None:
        """
        Args:
            server: whose table samples the lowest priority first and evicts the oldest item.
            capacity: of its table.
            prioritized: sample in proportion to the priorities that `update_priorities` sets; uniformly otherwise.
            max_held_bytes: how much of the items sampled is held; those sampled longest ago are left to Reverb again.
        """
        self._client = server.client
        self._capacity, self._prioritized = capacity, prioritized
        self._generator = np.random.default_rng(seed)
        self._now = 0.0  # the last ringing time
        self._rates: deque[float] = deque()  # of the items in the table, oldest first
        self._evicted = 0
        self._names: deque[tuple[int, int]] = deque()  # (env, step) of the same
        self._ordinals: dict[tuple[int, int], int] = {}  # (env, step) -> ordinal, of the same
        self._clocks: dict[int, float] = {}  # ordinal -> ringing time, of the same
        self._queue: list[tuple[float, int]] = []  # heap of (ringing time, ordinal); some are out of date
        self._held: dict[int, _HeldItem] = {}  # by ordinal, sampled longest ago first
        self._held_bytes, self._max_held_bytes = 0, max_held_bytes
        self._ordinal_of_key: dict[int, int] = {}  # of those sampled yet
        self._key_of_ordinal: dict[int, int] = {}
        self._total_rate = 0.0
        self._max_rate = 1.0  # of all there were: new items are given it, as the learner's actors do

    def insertion_priority(self, env: int, step: int) -> float:
        """The first ringing time of an item about to be inserted; items must be inserted in the order of these calls."""
        ordinal = self._ordinals[env, step] = self._evicted + len(self._rates)
        self._names.append((env, step))
        self._rates.append(self._max_rate)
        self._total_rate += self._max_rate
        if len(self._rates) > self._capacity:
            self._evict()
        return self._wind(ordinal, self._max_rate)

    def sample(self, batch_size: int) -> Items:
        """The next `batch_size` items."""
        samples = [self._sample_one() for _ in range(batch_size)]
        columns = {name: np.stack([item.columns[name] for item, _ in samples]) for name in samples[0][0].columns}
        self._release()
        return Items.from_columns(
            columns,
            key=np.array([item.key for item, _ in samples], np.uint64),
            probability=np.array([probability for _, probability in samples]),
            table_size=len(self._rates),
            shard=0,
        )

    def update_priorities(self, keys: NDArray[np.uint64], priorities: NDArray[np.float64]) -> None:
        """Sets items' rates and draws their clocks anew, which changes nothing but the rate: clocks have no memory."""
        if not self._prioritized:
            return
        for key, priority in zip(keys.tolist(), priorities.tolist(), strict=True):
            if key not in self._ordinal_of_key:
                continue  # evicted since it was sampled
            ordinal = self._ordinal_of_key[key]
            place = ordinal - self._evicted
            self._total_rate += priority - self._rates[place]
            self._rates[place] = priority
            self._max_rate = max(self._max_rate, priority)
            clock = self._wind(ordinal, priority)
            if ordinal not in self._held:
                self._client.mutate_priorities(TABLE, {key: clock})

    def _sample_one(self) -> tuple[_HeldItem, float]:
        """The item whose clock rings next, and the probability with which it was to be that."""
        while True:
            clock, ordinal = heapq.heappop(self._queue)
            if self._clocks.get(ordinal) == clock:
                break
        self._now = clock
        item = self._held.pop(ordinal, None)
        if item is None:
            item = self._fetch(ordinal)
            self._held_bytes += item.num_bytes
        self._held[ordinal] = item  # last: sampled just now
        rate = self._rates[ordinal - self._evicted]
        self._wind(ordinal, rate)
        return item, rate / self._total_rate

    def _fetch(self, ordinal: int) -> _HeldItem:
        """The item from Reverb, whose clock for it is stopped."""
        sample = next(iter(self._client.sample(TABLE, 1, emit_timesteps=False, unpack_as_table_signature=True)))
        item = _HeldItem(int(sample.info.key), sample.data)
        _, _, env, step, _ = item.columns["meta"][0].tolist()
        assert self._ordinals[env, step] == ordinal  # or its heap and ours disagree
        self._client.mutate_priorities(TABLE, {item.key: math.inf})
        self._ordinal_of_key[item.key] = ordinal
        self._key_of_ordinal[ordinal] = item.key
        return item

    def _release(self) -> None:
        """Leaves items to Reverb until what is held is within the limit."""
        clocks = {}
        while self._held_bytes > self._max_held_bytes:
            ordinal = next(iter(self._held))
            item = self._held.pop(ordinal)
            self._held_bytes -= item.num_bytes
            clocks[item.key] = self._clocks[ordinal]
        if clocks:
            self._client.mutate_priorities(TABLE, clocks)

    def _evict(self) -> None:
        """Forgets the oldest item, as the table does."""
        self._total_rate -= self._rates.popleft()
        del self._ordinals[self._names.popleft()]
        del self._clocks[self._evicted]
        item = self._held.pop(self._evicted, None)
        if item is not None:
            self._held_bytes -= item.num_bytes
        key = self._key_of_ordinal.pop(self._evicted, None)
        if key is not None:
            del self._ordinal_of_key[key]
        self._evicted += 1

    def _wind(self, ordinal: int, rate: float) -> float:
        """Draws an item's clock; returns when it rings."""
        clock = self._clocks[ordinal] = self._now + float(self._generator.exponential()) / rate
        heapq.heappush(self._queue, (clock, ordinal))
        return clock
