"""Moves transitions from the shards into replay, as fast as the ratio allows, and counts each one once."""

from __future__ import annotations

import queue
import threading
from typing import NamedTuple, Protocol

from learner.ratio import Ratio
from sbrl.replay.receipts import Receipts
from sbrl.replay.segments import Segment, SegmentShape

WAITING_SEGMENTS = 2  # per shard and kind; with more, segments would only be staler
PUT_SECONDS = 0.5  # how often a waiting reader checks whether the intake is closed


class Store(Protocol):
    """Where segments go: the replay memory, or nowhere if replay is sampled from Reverb."""

    @property
    def is_full(self) -> bool:
        """Whether there is no room for older segments."""
        ...

    def append(self, segment: Segment) -> int:
        """Takes a segment as the newest one."""
        ...

    def prepend(self, segment: Segment) -> int:
        """Takes a segment as the oldest one, if there is room."""
        ...


class _Arrival(NamedTuple):
    shard: int
    segment: Segment


class Intake:
    """Takes the segments that readers bring.

    From a shard's queue, it takes segments only while the ratio wants more. Otherwise readers wait, the queues fill, and
    actors wait. From a shard's log, after a restart, it takes everything: these segments were wanted before. A log is read
    newest first, beside the queue. So a segment that comes twice is dropped the second time, and a segment from a log is older
    than all that were taken before.
    """

    def __init__(self, shape: SegmentShape, receipts: Receipts, ratio: Ratio, store: Store, num_shards: int) -> None:
        self._shape, self._receipts, self._ratio, self._store = shape, receipts, ratio, store
        self._fresh: queue.Queue[_Arrival] = queue.Queue(WAITING_SEGMENTS * num_shards)
        self._logged: queue.Queue[_Arrival] = queue.Queue(WAITING_SEGMENTS * num_shards)
        self._arrived, self._closed = threading.Event(), threading.Event()
        # By shard, until its log is read: stream and first step of each stored segment.
        self._held: dict[int, set[tuple[int, ...]]] = {shard: set() for shard in range(num_shards)}
        self._settled: tuple[tuple[int, int], ...] = ()
        self.segments = 0
        self.filled = 0  # transitions taken from logs

    def put_fresh(self, shard: int, segment: Segment) -> None:
        """For readers of queues. Waits until there is room, or until `close`."""
        self._put(self._fresh, _Arrival(shard, segment))

    def put_logged(self, shard: int, segment: Segment) -> bool:
        """For readers of logs. Waits in the same way, and returns whether more is wanted."""
        return not self._store.is_full and self._put(self._logged, _Arrival(shard, segment))

    def close(self) -> None:
        """Takes nothing any more. Readers that wait to put a segment return without putting it."""
        self._closed.set()

    def take(self) -> int:
        """Stores the segments that have arrived and are wanted, without waiting; returns the number of new transitions."""
        before = self._ratio.received
        for _ in range(self._logged.maxsize):  # bounded, so that training continues while logs are read
            arrival = _next_of(self._logged)
            if arrival is None:
                break
            self._take_logged(arrival)
        while self._ratio.may_receive and (arrival := _next_of(self._fresh)) is not None:
            self._take_fresh(arrival)
        return self._ratio.received - before

    def wait(self, timeout: float) -> None:
        """If no wanted segment is there, waits up to `timeout` seconds until something arrives."""
        self._arrived.clear()
        if self._logged.empty() and (self._fresh.empty() or not self._ratio.may_receive):
            self._arrived.wait(timeout)

    def settle(self, ended_actors: tuple[tuple[int, int], ...]) -> None:
        """Counts transitions of ended actors that never arrived as lost.

        Args:
            ended_actors: (incarnation, transitions collected) of each.
        """
        if ended_actors == self._settled:
            return
        for incarnation, transitions in ended_actors:
            self._receipts.settle(incarnation, transitions)
        self._settled = ended_actors

    @property
    def is_empty(self) -> bool:
        return self._fresh.empty() and self._logged.empty()

    @property
    def has_logged(self) -> bool:
        """Whether segments from logs wait to be taken."""
        return not self._logged.empty()

    def log_is_read(self, shard: int) -> None:
        """Forgets which of the shard's segments are stored: its log will bring nothing more."""
        self._held.pop(shard, None)

    def _take_fresh(self, arrival: _Arrival) -> None:
        held = self._held.get(arrival.shard)
        if held is not None and _name(arrival.segment) in held:
            return  # it has just come from the shard's log
        steps = int(arrival.segment.valid(self._shape).sum())
        new = self._receipts.take(arrival.shard, arrival.segment.of, arrival.segment.first, steps)
        self.segments += 1
        if new:
            self._ratio.receive(new)
            self._store.append(arrival.segment)
            if held is not None:
                held.add(_name(arrival.segment))

    def _take_logged(self, arrival: _Arrival) -> None:
        held, name = self._held.get(arrival.shard), _name(arrival.segment)
        if held is None or name in held:
            return
        steps = int(arrival.segment.valid(self._shape).sum())
        if not self._store.is_full:
            self._store.prepend(arrival.segment)
            held.add(name)
        self.filled += steps
        self._ratio.receive(self._receipts.take(arrival.shard, arrival.segment.of, arrival.segment.first, steps, from_log=True))

    def _put(self, into: queue.Queue[_Arrival], arrival: _Arrival) -> bool:
        while not self._closed.is_set():
            try:
                into.put(arrival, timeout=PUT_SECONDS)
            except queue.Full:
                continue
            self._arrived.set()
            return True
        return False


def _name(segment: Segment) -> tuple[int, ...]:
    return (*segment.of, segment.first)


def _next_of(source: queue.Queue[_Arrival]) -> _Arrival | None:
    try:
        return source.get_nowait()
    except queue.Empty:
        return None
