"""The accounts of received steps, against a model that stores every single number."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbrl.replay.receipts import WITH_ACTORS, Counts, Receipts
from sbrl.replay.segments import Stream

NUM_SHARDS = 3
FIRST = Stream(actor=1, incarnation=2, env=3, stream=0)


class Written:
    """A segment that an environment wrote."""

    def __init__(self, shard: int, stream: Stream, first: int, steps: int) -> None:
        self.shard, self.stream, self.first, self.steps = shard, stream, first, steps

    @property
    def numbers(self) -> set[tuple[int, int, int, int]]:
        of = self.stream
        return {(of.actor, of.env, of.incarnation, number) for number in range(self.first, self.first + self.steps)}


@st.composite
def courses(draw: st.DrawFn) -> list[Written]:
    """Segments of some environments, in order. A stream's tail may be missing, because it never became a segment."""
    written = []
    for env, incarnation in draw(
        st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=4, unique=True)
    ):
        number, previous = 0, -1
        for stream in range(draw(st.integers(1, 4))):
            shard = draw(st.integers(0, NUM_SHARDS - 1))
            of = Stream(7, incarnation, env, stream, start=number, previous_shard=previous)
            for steps in draw(st.lists(st.integers(1, 6), max_size=4)):
                written.append(Written(shard, of, number, steps))
                number += steps
            number += draw(st.integers(0, 5))  # dropped by the actor
            previous = shard
    return written


@settings(max_examples=300)
@given(data=st.data(), written=courses())
def test_the_books_balance_whatever_comes_in_whatever_order(data: st.DataObject, written: list[Written]) -> None:
    """Resends, restores, gaps, fills from a log, shards that overtake each other, and restarted learners."""
    receipts = Receipts()
    received: set[Any] = set()
    marks: Counter[Any] = Counter()
    saved: tuple[str, set[Any], Counter[Any]] = json.dumps(receipts.state()), set(), Counter()
    by_shard: dict[int, Counter[str]] = {shard: Counter() for shard in range(NUM_SHARDS)}
    saved_by_shard = {shard: Counter(counts) for shard, counts in by_shard.items()}
    for _ in range(data.draw(st.integers(0, 25)) if written else 0):
        event = data.draw(st.sampled_from(["segment"] * 6 + ["save", "restart"]))
        if event == "save":
            saved = json.dumps(receipts.state()), set(received), Counter(marks)
            saved_by_shard = {shard: Counter(counts) for shard, counts in by_shard.items()}
        elif event == "restart":
            receipts, received, marks = Receipts.from_state(json.loads(saved[0])), set(saved[1]), Counter(saved[2])
            by_shard = {shard: Counter(counts) for shard, counts in saved_by_shard.items()}
        else:
            one = data.draw(st.sampled_from(written))
            new = one.numbers - received
            assert receipts.take(one.shard, one.stream, one.first, one.steps) == len(new)
            received |= one.numbers
            by_shard[one.shard]["received"] += len(new)
            by_shard[one.shard]["duplicates"] += one.steps - len(new)
            writer = one.stream[:3]
            marks[writer] = max(marks[writer], one.first + one.steps)
        total = receipts.total
        assert total.received == len(received)
        assert total.received + total.lost - total.recovered == marks.total()
        for shard, counts in receipts.counts.items():
            assert 0 <= counts.recovered <= counts.lost
            assert (counts.received, counts.duplicates) == (by_shard[shard]["received"], by_shard[shard]["duplicates"])


@settings(max_examples=100)
@given(data=st.data(), written=courses())
def test_once_all_has_come_nothing_that_a_shard_has_is_lost(data: st.DataObject, written: list[Written]) -> None:
    receipts = Receipts()
    for one in data.draw(st.permutations(written)):
        assert receipts.take(one.shard, one.stream, one.first, one.steps) == one.steps
    never = Counter({one.stream[:3]: one.first + one.steps for one in sorted(written, key=lambda one: one.first)})
    assert receipts.total.lost - receipts.total.recovered == never.total() - sum(one.steps for one in written)
    assert receipts.total.duplicates == 0


@settings(max_examples=300)
@given(data=st.data(), written=courses())
def test_all_that_was_collected_is_received_lost_or_in_flight(data: st.DataObject, written: list[Written]) -> None:
    """Actors end at any time, their end is reported repeatedly, and their segments may arrive before or after that."""
    collected: Counter[int] = Counter()  # by incarnation, over its environments
    for writer, end in {one.stream[:3]: one.first + one.steps for one in sorted(written, key=lambda one: one.first)}.items():
        collected[writer[1]] += end + data.draw(st.integers(0, 40))  # steps that never became a segment
    receipts, marks, ended = Receipts(), Counter[Any](), set[int]()
    saved: tuple[str, Counter[Any], set[int]] = json.dumps(receipts.state()), Counter(), set()
    for _ in range(data.draw(st.integers(0, 30)) if written else 0):
        event = data.draw(st.sampled_from(["segment"] * 4 + ["end"] * 2 + ["save", "restart"]))
        one = data.draw(st.sampled_from(written))
        if event == "save":
            saved = json.dumps(receipts.state()), Counter(marks), set(ended)
        elif event == "restart":
            receipts, marks, ended = Receipts.from_state(json.loads(saved[0])), Counter(saved[1]), set(saved[2])
        elif event == "end":
            ended.add(one.stream.incarnation)
            receipts.settle(one.stream.incarnation, collected[one.stream.incarnation])
        else:
            receipts.take(one.shard, one.stream, one.first, one.steps)
            writer = one.stream[:3]
            marks[writer] = max(marks[writer], one.first + one.steps)
        in_flight = sum(
            steps - sum(mark for writer, mark in marks.items() if writer[1] == incarnation)
            for incarnation, steps in collected.items()
            if incarnation not in ended
        )
        total, with_actors = receipts.total, receipts.of_shard(WITH_ACTORS)
        assert total.received + total.lost - total.recovered + in_flight == collected.total()
        assert 0 <= with_actors.recovered <= with_actors.lost
        assert (with_actors.received, with_actors.duplicates) == (0, 0)


def test_what_comes_after_its_actor_is_gone_was_not_lost() -> None:
    receipts = Receipts()
    receipts.take(0, FIRST, 0, 10)
    receipts.settle(FIRST.incarnation, 25)
    assert receipts.of_shard(WITH_ACTORS) == Counts(lost=15)
    assert receipts.take(0, FIRST, 12, 8) == 8  # 10 and 11 now count as missing in the shard, not with the actor
    assert receipts.of_shard(WITH_ACTORS) == Counts(lost=15, recovered=10)
    assert receipts.of_shard(0) == Counts(received=18, lost=2)
    receipts.settle(FIRST.incarnation, 25)
    assert receipts.of_shard(WITH_ACTORS) == Counts(lost=15, recovered=10)
    receipts.settle(FIRST.incarnation, 30)  # its last counts arrive late
    assert receipts.of_shard(WITH_ACTORS) == Counts(lost=20, recovered=10)
    assert receipts.take(0, FIRST, 20, 10) == 10
    assert receipts.of_shard(WITH_ACTORS) == Counts(lost=20, recovered=20)
    assert receipts.take(0, FIRST, 30, 5) == 5  # steps beyond them are not recovered, because they were never lost
    assert receipts.of_shard(WITH_ACTORS) == Counts(lost=20, recovered=20)


def test_what_is_missing_is_counted_with_the_shard_that_it_was_sent_to() -> None:
    receipts = Receipts()
    assert receipts.take(0, FIRST, 0, 10) == 10
    assert receipts.take(0, FIRST, 15, 5) == 5  # 10 to 14 are missing in shard 0
    second = FIRST._replace(stream=1, start=30, previous_shard=0)
    assert receipts.take(2, second, 32, 4) == 4  # 20 to 29 in shard 0, 30 and 31 in shard 2
    assert receipts.counts == {0: Counts(15, 0, 15, 0), 2: Counts(4, 0, 2, 0)}
    assert receipts.take(0, FIRST, 20, 8) == 8  # shard 0 is back
    assert receipts.take(0, FIRST, 10, 10) == 5  # and serves again what it had served
    assert receipts.counts == {0: Counts(28, 5, 15, 13), 2: Counts(4, 0, 2, 0)}


def test_a_stream_of_which_nothing_came_is_lost_too() -> None:
    receipts = Receipts()
    assert receipts.take(1, FIRST._replace(stream=2, start=50, previous_shard=0), 50, 3) == 3
    assert receipts.counts == {0: Counts(lost=50), 1: Counts(received=3)}


def test_old_incarnations_make_room_and_what_still_comes_of_them_is_not_new() -> None:
    receipts = Receipts(max_writers=3)
    for incarnation in range(1, 6):
        for env in range(2):
            assert receipts.take(0, Stream(0, incarnation, env, 0), 0, 4) == 4
    assert len(receipts.state()["writers"]) == 3
    restored = Receipts.from_state(json.loads(json.dumps(receipts.state())), max_writers=3)
    for held in (receipts, restored):
        assert held.take(0, Stream(0, 1, 0, 0), 4, 4) == 0
        assert held.take(0, Stream(0, 5, 0, 0), 4, 4) == 4
        assert held.total == Counts(received=44, duplicates=4)


def test_environments_that_are_alive_are_kept_however_many_they_are() -> None:
    receipts = Receipts(max_writers=3)
    for env in range(6):
        receipts.take(0, Stream(0, 0, env, 0), 0, 4)
    assert [receipts.take(0, Stream(0, 0, env, 0), 0, 4) for env in range(6)] == [0] * 6


def test_the_lowest_holes_are_forgotten_and_stay_lost() -> None:
    receipts = Receipts(max_holes=2)
    for first in range(0, 50, 10):
        receipts.take(0, FIRST, first, 5)
    assert receipts.take(0, FIRST, 5, 5) == 0
    assert receipts.take(0, FIRST, 35, 5) == 5
    assert receipts.total == Counts(received=30, duplicates=5, lost=20, recovered=5)


@pytest.mark.parametrize(("stream", "first", "steps"), [(FIRST._replace(start=5), 4, 1), (FIRST, 0, -1), (FIRST, -1, 1)])
def test_numbers_that_cannot_be_are_refused(stream: Stream, first: int, steps: int) -> None:
    receipts = Receipts()
    with pytest.raises(ValueError, match="cannot be of a stream"):
        receipts.take(0, stream, first, steps)
    assert receipts.state() == Receipts().state()


@pytest.mark.parametrize(
    "state", [{}, {"writers": 3, "forgotten": [], "counts": {}}, {"writers": [[1]], "forgotten": [], "counts": {}}, []]
)
def test_a_state_that_is_none_is_refused(state: Any) -> None:
    with pytest.raises(ValueError, match="receipts cannot be read"):
        Receipts.from_state(state)
