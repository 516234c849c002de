"""A learner that has lost its memory fills it from the logs, with real Reverb."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from sbrl.replay.backend import reverb
from sbrl.replay.log_fill import BELOW, MAX_FILL, LogFill, age_of, fill_of
from sbrl.replay.receipts import Receipts
from sbrl.replay.segment_reader import SegmentReader
from sbrl.replay.segments import Segment
from sbrl.rpc.ports import free_ports
from tests.integration.segment_shards import SHAPE, TIMEOUT, Actor, Taken, serve, stop_reading, wait_for

CAPACITY = 30  # segments of the log


class Log:
    """A shard whose queue is read, and the segments that fills have read from its log."""

    def __init__(self) -> None:
        (port,) = free_ports("127.0.0.1", 1)
        self._server = serve(SHAPE, port, log=CAPACITY)
        self.address = f"127.0.0.1:{port}"
        self.taken = Taken()
        self.reader = SegmentReader(self.address, 0, SHAPE, self.taken.take)
        self.reader.start()
        assert self.reader.probe.wait_answer(TIMEOUT)
        self.actor = Actor([self.address], num_envs=2)
        self.actor.begin()

    def write(self, segments: int) -> None:
        """Writes this many more segments for each environment. Afterwards, all written segments are in the log."""
        self.actor.step(segments * SHAPE.steps, confirm=True)

    def newest_first(self) -> list[tuple[int, int]]:
        """(env, first) of the log's segments: the last ones that came through the queue."""
        wait_for(lambda: self.taken.receipts.total.received == sum(s.inserted for s in self.actor.streams), "not read")
        order = sorted((segment.first, segment.of.env) for _, segment in self.taken.segments)
        return [(env, first) for first, env in reversed(order)][:CAPACITY]

    def fill(self, number: int, most: int = 1_000_000) -> list[tuple[int, int]]:
        """Reads the log, or at most this many segments of it."""
        read: list[tuple[int, int]] = []

        def sink(shard: int, segment: Segment) -> bool:
            read.append((segment.of.env, segment.first))
            return len(read) < most

        self.reader.fill(number, sink)
        assert self.reader.filled.wait(TIMEOUT)
        return read

    def close(self) -> None:
        self.actor.close()
        stop_reading([self.reader], SHAPE)
        self._server.stop()


@pytest.fixture
def log() -> Iterator[Log]:
    made = Log()
    yield made
    made.close()


def test_each_segment_comes_once_and_the_newest_first(log: Log) -> None:
    assert log.fill(1) == []
    log.write(6)
    first = log.newest_first()
    assert 10 <= len(first) < CAPACITY
    assert log.fill(2) == first
    assert log.fill(3) == first
    log.write(14)  # more than it has room for
    second = log.newest_first()
    assert len(second) == CAPACITY
    assert log.fill(4) == second
    assert log.fill(7) == second
    assert log.fill(7) == []  # it is complete


def test_a_fill_that_the_sink_ends_leaves_the_next_one_the_newest_first(log: Log) -> None:
    log.write(10)
    expected = log.newest_first()
    assert log.fill(1, most=5) == expected[:5]
    log.write(2)
    expected = log.newest_first()
    assert log.fill(2, most=7) == expected[:7]
    assert log.fill(3) == expected


def test_a_fill_that_was_killed_leaves_each_segment_to_the_next_once(log: Log) -> None:
    log.write(10)
    expected = log.newest_first()
    client = reverb.Client(log.address)
    read: list[tuple[int, int]] = []

    def killed(segment: Segment) -> bool:
        read.append((segment.of.env, segment.first))
        if len(read) == 5:
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt):
        LogFill(1, SHAPE, killed).go_on(client, lambda: False)
    assert read == expected[:5]
    assert log.fill(2) == expected[5:] + expected[:5]
    assert log.fill(3) == expected


def test_a_fill_goes_on_where_one_that_lost_its_connection_was(log: Log) -> None:
    log.write(10)
    expected = log.newest_first()
    client = reverb.Client(log.address)
    read: list[tuple[int, int]] = []
    cancelled = threading.Event()

    def sink(segment: Segment) -> bool:
        read.append((segment.of.env, segment.first))
        if len(read) == 4:
            cancelled.set()
        return True

    fill = LogFill(1, SHAPE, sink)
    assert not fill.go_on(client, cancelled.is_set)
    assert fill.go_on(client, lambda: False)
    assert read == expected


def test_a_fill_during_writes_has_all_that_was_there(log: Log) -> None:
    log.write(6)
    there = log.newest_first()
    begun, done = threading.Event(), threading.Event()
    read: list[tuple[int, int]] = []

    def sink(shard: int, segment: Segment) -> bool:
        read.append((segment.of.env, segment.first))
        if len(read) == 3:
            begun.set()
            assert done.wait(TIMEOUT)  # new segments are written in the middle of this fill
        return True

    log.reader.fill(1, sink)
    assert begun.wait(TIMEOUT)
    log.write(5)
    done.set()
    assert log.reader.filled.wait(TIMEOUT)
    now = log.newest_first()
    assert len(now) < CAPACITY
    assert sorted(read) == sorted(now)
    newer = now[: len(now) - len(there)]
    # Segments that were already requested come first, then the newest.
    assert read == there[:3] + newer + there[3:]


def test_what_a_learner_had_read_after_its_checkpoint_comes_back_from_the_log(log: Log) -> None:
    log.write(6)
    log.newest_first()
    saved = log.taken.receipts.state()
    log.write(3)
    log.newest_first()
    restored, memory = Receipts.from_state(saved), Receipts()  # the second one is empty: it says what this memory holds
    log.taken.receipts = restored
    log.write(1)
    wait_for(lambda: restored.total.lost == 2 * 3 * SHAPE.steps, "the gap is not seen")

    def sink(shard: int, segment: Segment) -> bool:
        steps = int(segment.valid(SHAPE).sum())
        assert memory.take(shard, segment.of, segment.first, steps) == steps
        restored.take(shard, segment.of, segment.first, steps)
        return True

    log.reader.fill(1, sink)
    assert log.reader.filled.wait(TIMEOUT)
    written = sum(stream.inserted for stream in log.actor.streams)
    assert memory.total.received == restored.total.received == written
    assert restored.total.lost == restored.total.recovered == 2 * 3 * SHAPE.steps


@pytest.mark.parametrize("number", [0, MAX_FILL, -1])
def test_a_number_that_cannot_be_a_fills_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=f"from 1 to {MAX_FILL - 1}, not {number}"):
        LogFill(number, SHAPE, lambda segment: True)


@pytest.mark.parametrize("fill", [0, 1, 5, MAX_FILL - 1])
@pytest.mark.parametrize("age", [0.0, 1.0, 1e9, BELOW - 1])
def test_a_priority_says_exactly_what_it_is_made_of(fill: int, age: float) -> None:
    priority = age - fill * BELOW
    assert (age_of(priority), fill_of(priority)) == (age, fill)
