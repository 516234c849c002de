"""Transitions on their way from the shards into replay: taken as the ratio wants them, each counted once."""

from __future__ import annotations

import queue
import threading
from typing import NamedTuple, Protocol

from learner.ratio import Ratio
from sbrl.replay.receipts import Receipts
from sbrl.replay.segments import Segment, SegmentShape

WAITING_SEGMENTS = 2  # of each shard and kind: more would only be staler
PUT_SECONDS = 0.5  # how often a reader that waits looks whether it is to end


class Store(Protocol):
    """Where segments go: the replay memory, or nowhere where replay is sampled from Reverb."""

    @property
    def is_full(self) -> bool:
        """Whether there is no room for older segments."""
        ...

    def append(self, segment: Segment) -> int:
        """Takes a segment as the newest one."""
        ...

    def prepend(self, segment: Segment) -> int:
        """Takes a segment as the oldest one, where there is room."""
        ...


class _Arrival(NamedTuple):
    shard: int
    segment: Segment


class Intake:
    """Takes what readers bring.

    From a shard's queue only as long as the ratio wants more: then readers wait, the queues fill, and actors wait. From a
    shard's log, after a restart, whatever comes: it was wanted before. A log is read newest first beside the queue, so of a
    segment that comes twice the second one is left out, and a log's are older than all that was taken before.
    """

    def __init__(self, shape: SegmentShape, receipts: Receipts, ratio: Ratio, store: Store, num_shards: int) -> None:
        self._shape, self._receipts, self._ratio, self._store = shape, receipts, ratio, store
        self._fresh: queue.Queue[_Arrival] = queue.Queue(WAITING_SEGMENTS * num_shards)
        self._logged: queue.Queue[_Arrival] = queue.Queue(WAITING_SEGMENTS * num_shards)
        self._arrived, self._closed = threading.Event(), threading.Event()
        # By shard, until its log is read: stream and first step of what is stored.
        self._held: dict[int, set[tuple[int, ...]]] = {shard: set() for shard in range(num_shards)}
        self._settled: tuple[tuple[int, int], ...] = ()
        self.segments = 0
        self.filled = 0  # transitions taken from logs

    def put_fresh(self, shard: int, segment: Segment) -> None:
        """For readers of queues; waits until there is room, or `close`."""
        self._put(self._fresh, _Arrival(shard, segment))

    def put_logged(self, shard: int, segment: Segment) -> bool:
        """For readers of logs; waits likewise, and returns whether more is wanted."""
        return not self._store.is_full and self._put(self._logged, _Arrival(shard, segment))

    def close(self) -> None:
        """Takes nothing any more: whoever waits to put something goes on without."""
        self._closed.set()

    def take(self) -> int:
        """Stores what has arrived and is wanted, without waiting; returns how many transitions were received by it."""
        before = self._ratio.received
        for _ in range(self._logged.maxsize):  # no more, so that training goes on while logs are read
            arrival = _next_of(self._logged)
            if arrival is None:
                break
            self._take_logged(arrival)
        while self._ratio.may_receive and (arrival := _next_of(self._fresh)) is not None:
            self._take_fresh(arrival)
        return self._ratio.received - before

    def wait(self, timeout: float) -> None:
        """Waits until something arrives while nothing is there that is wanted, for up to `timeout` seconds."""
        self._arrived.clear()
        if self._logged.empty() and (self._fresh.empty() or not self._ratio.may_receive):
            self._arrived.wait(timeout)

    def settle(self, ended_actors: tuple[tuple[int, int], ...]) -> None:
        """Counts as lost what actors that are gone had collected and did not come. Args: (incarnation, transitions) of each."""
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
        """Whether segments of logs wait to be taken."""
        return not self._logged.empty()

    def log_is_read(self, shard: int) -> None:
        """A shard's log will bring nothing more: what is stored of it needs not be remembered any longer."""
        self._held.pop(shard, None)

    def _take_fresh(self, arrival: _Arrival) -> None:
        held = self._held.get(arrival.shard)
        if held is not None and _name(arrival.segment) in held:
            return  # its shard's log has brought it a moment ago
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
        self._ratio.receive(self._receipts.take(arrival.shard, arrival.segment.of, arrival.segment.first, steps, again=True))

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
