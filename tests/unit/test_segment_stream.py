"""The shard that an environment's stream chooses, and its counts while it waits. Shards and writer are stand-ins."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pytest

from actors import segment_stream
from actors.segment_stream import SegmentStream, preferred_shard
from sbrl.replay.segments import SegmentShape, Stream, Transition

SHAPE = SegmentShape(1, 1, (2,), np.dtype(np.float32), steps=2)
OBSERVATION = np.zeros((1, 2), np.float32)
STEP = Transition(0, 0.0, False, OBSERVATION[0], 1)


class Probe:
    """A shard that is away, or answers after a number of waits."""

    def __init__(self, is_away: bool = False, waits: int = 0) -> None:
        self.is_away, self.room_seconds, self._waits = is_away, 0.0, waits

    def wait_answer(self, timeout_seconds: float) -> bool:
        if not self.is_away and self._waits == 0:
            return True
        threading.Event().wait(timeout_seconds)
        self._waits -= timeout_seconds > 0
        self.is_away &= self._waits > 0
        return False


class Writer:
    """A writer whose shard confirms nothing for a number of waits."""

    def __init__(self, waits: int = 0) -> None:
        self._waits, self.shard = waits, -1
        self.unconfirmed = self.confirmed_steps = 0
        self.oldest_seconds = 0.0
        self.opened: list[tuple[int, Stream]] = []

    def open(self, shard: int, stream: Stream) -> None:
        self.shard = shard
        self.opened.append((shard, stream))

    def row(self, row: object) -> None:
        pass

    def segment(self) -> None:
        self.unconfirmed += 1

    def flush(self, max_unconfirmed: int, timeout_seconds: float) -> bool:
        if self._waits:
            threading.Event().wait(timeout_seconds)
            self._waits -= 1
            return False
        self.confirmed_steps += SHAPE.steps * max(0, self.unconfirmed - max_unconfirmed)
        self.unconfirmed = min(self.unconfirmed, max_unconfirmed)
        return True

    def close(self) -> None:
        self.unconfirmed = 0


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_stream, "TURN_SECONDS", 0.01)
    monkeypatch.setattr(segment_stream, "LOOK_SECONDS", 0.01)


def stream_to(probes: list[Probe], writer: Writer, while_blocked: Any = lambda: None) -> SegmentStream:
    first = Stream(actor=0, incarnation=1, env=0, stream=0)
    parts = cast(Any, writer), SHAPE, cast(Any, probes), first
    return SegmentStream(*parts, preferred=1, stop=threading.Event(), drain_seconds=0.1, while_blocked=while_blocked)


@pytest.mark.parametrize(
    ("probes", "shard"),
    [
        ([Probe(), Probe(), Probe()], 1),
        pytest.param([Probe(), Probe(waits=3), Probe()], 1, id="the preferred one has not answered yet"),
        pytest.param([Probe(), Probe(is_away=True), Probe()], 2, id="it is away"),
        pytest.param([Probe(), Probe(is_away=True), Probe(is_away=True)], 0, id="so is the next"),
        pytest.param([Probe(is_away=True), Probe(is_away=True, waits=3), Probe(is_away=True)], 1, id="all are, for a while"),
    ],
)
def test_a_stream_goes_to_the_first_shard_that_is_not_away(probes: list[Probe], shard: int) -> None:
    writer = Writer()
    stream_to(probes, writer).begin(OBSERVATION)
    assert writer.opened == [(shard, Stream(0, 1, 0, 0, start=0, previous_shard=-1))]


def test_it_moves_with_the_numbers_going_on_and_comes_back_at_an_episodes_begin() -> None:
    probes, writer = [Probe(), Probe()], Writer(waits=1)
    stream = stream_to(probes, writer)
    stream.begin(OBSERVATION)
    probes[1].is_away = True
    for _ in range(6):
        stream.append(STEP, OBSERVATION)
    left = stream.dropped
    probes[1].is_away = False
    stream.append(STEP, OBSERVATION)
    assert stream.shard == 0
    stream.end()
    stream.begin(OBSERVATION)
    assert [shard for shard, _ in writer.opened] == [1, 0, 1]
    moved, back = (of for _, of in writer.opened[1:])
    assert (moved.stream, moved.start, moved.previous_shard) == (1, left, 1)
    assert (back.stream, back.start, back.previous_shard) == (2, 7, 0)
    assert stream.created == 7
    assert left > 0


def test_a_connection_of_no_use_is_not_made_again_at_once() -> None:
    probes, writer = [Probe(), Probe()], Writer(waits=1)
    stream = stream_to(probes, writer)
    stream.begin(OBSERVATION)
    probes[1].room_seconds = writer.oldest_seconds = 60.0
    while stream.shard == 1:
        stream.append(STEP, OBSERVATION)
    assert [shard for shard, _ in writer.opened] == [1, 0]


def test_an_environment_makes_one_step_at_most_on_top_of_a_segment_that_waits() -> None:
    writer = Writer()
    stream = stream_to([Probe(), Probe()], writer)
    stream.begin(OBSERVATION)
    waiting = []
    for _ in range(5 * SHAPE.steps):
        stream.append(STEP, OBSERVATION)
        waiting.append(writer.unconfirmed)
    assert max(waiting) == 1
    assert not any(one and other for one, other in pairwise(waiting))


def test_a_wait_is_counted_while_it_lasts() -> None:
    seen: list[float] = []
    writer = Writer(waits=3)
    stream: SegmentStream = stream_to([Probe(), Probe()], writer, lambda: seen.append(stream.blocked_seconds))
    stream.begin(OBSERVATION)
    while not seen:
        stream.append(STEP, OBSERVATION)
    assert len(seen) == 3
    assert 0.005 < seen[0] < seen[1] < seen[2] <= stream.blocked_seconds
    assert stream.dropped == 0


def test_environments_take_turns_over_the_shards() -> None:
    assert [preferred_shard(actor, env, 3, 4) for actor in range(2) for env in range(3)] == [0, 1, 2, 3, 0, 1]
