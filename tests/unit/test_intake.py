"""Segments from shards are taken as the ratio wants them, and stored and counted once, on either way."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.intake import WAITING_SEGMENTS, Intake
from learner.ratio import Ratio, RatioSettings
from learner.replay import NoMemory
from sbrl.replay.receipts import WITH_ACTORS, Receipts
from sbrl.replay.segments import PADDING, Segment, SegmentShape, Stream

SHAPE = SegmentShape(stack=1, n_max=1, frame_shape=(1,), frame_dtype=np.dtype(np.uint8), steps=4)
WAIT = 20.0
Name = tuple[int, int]  # incarnation, number of the first step


def segment(first: int, incarnation: int = 1, steps: int = 4, start: int = 0) -> Segment:
    columns = {name: np.zeros(dims, dtype) for name, (dims, dtype) in SHAPE.columns().items()}
    columns["action"][steps:] = PADDING
    columns["stream"][0] = (*Stream(actor=0, incarnation=incarnation, env=0, stream=0, start=start), first)
    return Segment(**columns)


class Memory:
    """Keeps the names of segments, oldest first, and refuses older ones if it is full."""

    def __init__(self, room: int = 1000) -> None:
        self.names: list[Name] = []
        self.room = room

    @property
    def is_full(self) -> bool:
        return len(self.names) >= self.room

    def append(self, segment: Segment) -> int:
        self.names = [*self.names, (segment.of.incarnation, segment.first)][-self.room :]
        return 0

    def prepend(self, segment: Segment) -> int:
        assert not self.is_full
        self.names.insert(0, (segment.of.incarnation, segment.first))
        return 0


def intake_of(memory: Memory | NoMemory, ahead: float = 1e6, min_size: int = 1, num_shards: int = 100) -> Intake:
    ratio = Ratio(RatioSettings(min_size, samples_per_insert=2.0, batch_size=8, ahead=ahead))
    return Intake(SHAPE, Receipts(), ratio, memory, num_shards)


def test_no_more_is_taken_than_the_ratio_wants() -> None:
    memory = Memory()
    intake = intake_of(memory, ahead=8, min_size=4)
    for k in range(10):
        intake.put_fresh(0, segment(4 * k))
    assert intake.take() == 16  # 12 are worth 24 samples, more than those of 8 transitions; the rest was already wanted
    assert (intake.take(), intake.is_empty) == (0, False)
    for _ in range(2):
        intake._ratio.train()
    assert intake.take() == 8
    assert memory.names == [(1, 4 * k) for k in range(6)]


def test_what_is_logged_is_taken_whatever_the_ratio_says() -> None:
    memory = Memory()
    intake = intake_of(memory, ahead=1, min_size=1)
    intake.put_fresh(0, segment(8))
    assert intake.take() == 4
    for k in (1, 0):
        assert intake.put_logged(0, segment(4 * k))
    assert intake.take() == 8
    assert memory.names == [(1, 0), (1, 4), (1, 8)]
    total = intake._receipts.total
    assert (total.received, total.duplicates, total.lost - total.recovered) == (12, 0, 0)
    assert (intake.filled, intake.segments) == (8, 1)


@pytest.mark.parametrize("order", [("fresh", "logged"), ("logged", "fresh")])
def test_the_same_segment_by_both_ways_is_stored_and_counted_once(order: Sequence[str]) -> None:
    memory = Memory()
    intake = intake_of(memory)
    for way in order:
        (intake.put_fresh if way == "fresh" else intake.put_logged)(0, segment(0))
        intake.take()
    assert memory.names == [(1, 0)]
    assert intake._receipts.total == (4, 0, 0, 0)


def test_what_a_learner_before_had_received_is_stored_again_but_not_counted_again() -> None:
    memory = Memory()
    intake = intake_of(memory)
    intake._receipts.take(0, segment(0).of, 0, 8)
    for k in (1, 0):
        intake.put_logged(0, segment(4 * k))
    assert intake.take() == 0
    assert memory.names == [(1, 0), (1, 4)]
    assert intake._receipts.total == (8, 0, 0, 0)
    intake.log_is_read(0)
    intake.put_fresh(0, segment(4))  # a restored shard serves it again
    assert intake.take() == 0
    assert memory.names == [(1, 0), (1, 4)]
    assert intake._receipts.total == (8, 4, 0, 0)


def test_a_full_memory_wants_no_older_segments() -> None:
    memory = Memory(room=2)
    intake = intake_of(memory)
    assert intake.put_logged(0, segment(8))
    assert intake.put_logged(0, segment(4))
    assert intake.put_logged(0, segment(0))  # on its way before the memory was full
    assert intake.take() == 12
    assert memory.names == [(1, 4), (1, 8)]
    assert not intake.put_logged(0, segment(0))
    intake.put_fresh(0, segment(12))
    assert intake.take() == 4
    assert memory.names == [(1, 8), (1, 12)]
    assert intake._receipts.total.lost == intake._receipts.total.recovered


def test_without_a_memory_all_is_counted_and_nothing_kept() -> None:
    intake = intake_of(NoMemory())
    intake.put_fresh(0, segment(0))
    intake.put_logged(0, segment(4))
    assert intake.take() == 8


@settings(max_examples=100)
@given(data=st.data(), num_segments=st.integers(1, 12), ahead=st.sampled_from([4.0, 9.0, 100.0]))
def test_any_order_of_ways_ends_with_each_segment_once(data: st.DataObject, num_segments: int, ahead: float) -> None:
    """Queues serve in order, and again after a restore. A log is read newest first. The learner trains meanwhile."""
    memory = Memory()
    intake = intake_of(memory, ahead=ahead, min_size=3)
    logged = [segment(4 * k) for k in range(num_segments)]
    fresh_from, again_from = data.draw(st.integers(0, num_segments)), data.draw(st.integers(0, num_segments))
    fresh = [segment(4 * k) for k in [*range(fresh_from, num_segments), *range(again_from, num_segments)]]
    logged_to = data.draw(st.integers(fresh_from, num_segments))
    logged = logged[:logged_to]
    while fresh or logged:
        if logged and (not fresh or data.draw(st.booleans())):
            assert intake.put_logged(0, logged.pop())
        else:
            intake.put_fresh(0, fresh.pop(0))
        before = intake._ratio.may_receive
        taken = intake.take()
        assert before or taken == 0 or intake.filled
        while intake._ratio.updates_due and data.draw(st.booleans()):
            intake._ratio.train()
    while not intake.is_empty:
        while intake._ratio.updates_due:
            intake._ratio.train()
        intake.take()
    assert sorted(memory.names) == sorted(set(memory.names))
    total = intake._receipts.total
    assert total.received == intake._ratio.received == 4 * len(memory.names)
    first = min(first for _, first in memory.names)
    assert {first for _, first in memory.names} >= set(range(4 * fresh_from, 4 * num_segments, 4))
    assert total.lost - total.recovered == first == (0 if logged_to else 4 * min(fresh_from, again_from))


def test_readers_wait_for_room_and_end_with_the_intake() -> None:
    intake = intake_of(Memory(), ahead=1, min_size=1, num_shards=1)
    ended: list[str] = []

    def put(way: str) -> None:
        for k in range(WAITING_SEGMENTS + 1):
            if way == "fresh":
                intake.put_fresh(0, segment(4 * k))
            elif not intake.put_logged(0, segment(100 + 4 * k)):
                break
        ended.append(way)

    threads = [threading.Thread(target=put, args=(way,), daemon=True) for way in ("fresh", "logged")]
    for thread in threads:
        thread.start()
    threads[0].join(0.05)
    assert ended == []
    intake.close()
    for thread in threads:
        thread.join(WAIT)
    assert sorted(ended) == ["fresh", "logged"]
    assert not intake.put_logged(0, segment(0))


def test_waiting_ends_when_something_arrives() -> None:
    intake = intake_of(Memory())
    waiting = threading.Thread(target=intake.wait, args=(WAIT,), daemon=True)
    waiting.start()
    intake.put_fresh(0, segment(0))
    waiting.join(WAIT / 2)
    assert not waiting.is_alive()
    intake.wait(WAIT)  # something is there, so it does not wait


def test_what_went_with_actors_is_counted_once_whatever_is_repeated() -> None:
    intake = intake_of(Memory())
    intake.put_fresh(0, segment(0))
    intake.take()
    for ended in (((1, 10),), ((1, 10),), ((1, 10), (2, 3))):
        intake.settle(ended)
    lost = intake._receipts.of_shard(WITH_ACTORS)
    assert (lost.lost, lost.recovered) == (6 + 3, 0)
    intake.put_fresh(0, segment(4))  # was on its way
    intake.take()
    lost = intake._receipts.of_shard(WITH_ACTORS)
    assert (lost.lost, lost.recovered) == (9, 4)
