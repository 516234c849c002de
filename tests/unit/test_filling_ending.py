"""When a starting learner may train on its memory's content, and when a run has nothing more to receive."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest

from learner.ending import DRAINED_SECONDS, LOOK_SECONDS, LOST_SHARD_SECONDS, RunEnd
from learner.filling import ABSENT_SECONDS, ENOUGH, Filling
from sbrl.v1.fleet_pb2 import RUN_STATE_COLLECTED, RUN_STATE_FINISHED, RUN_STATE_RUNNING, GetStatusResponse, Member


class Reader:
    """A shard's reader with a progress that tests set."""

    def __init__(self, shard: int = 0) -> None:
        self.shard, self.is_up, self.log_share_read, self.drained = shard, True, 0.0, 0.0

    def drained_seconds(self) -> float:
        return self.drained


class Intake:
    def __init__(self) -> None:
        self.has_logged = False
        self.is_empty = True
        self.filled = 0
        self.read: list[int] = []

    def log_is_read(self, shard: int) -> None:
        self.read.append(shard)


def filling_of(readers: list[Reader], intake: Intake) -> Filling:
    filling = Filling(cast(Any, readers), cast(Any, intake))
    filling._start = 100.0
    return filling


def test_training_begins_with_a_tenth_of_every_log() -> None:
    readers, intake = [Reader(0), Reader(1)], Intake()
    filling = filling_of(readers, intake)
    readers[0].log_share_read = 1.0
    filling.update_progress(101.0)
    assert (filling.is_enough, filling.is_over) == (False, False)
    readers[1].log_share_read = ENOUGH
    filling.update_progress(102.0)
    assert (filling.is_enough, filling.is_over) == (True, False)
    readers[1].log_share_read = 0.01  # the log has grown: what is enough once stays so
    filling.update_progress(103.0)
    assert filling.is_enough


def test_a_shard_that_is_away_is_not_waited_for_but_filled_from_once_it_is_back() -> None:
    readers, intake = [Reader(0), Reader(1)], Intake()
    filling = filling_of(readers, intake)
    readers[0].log_share_read, readers[1].is_up = 1.0, False
    filling.update_progress(100.0 + ABSENT_SECONDS)
    assert not filling.is_enough
    filling.update_progress(100.1 + ABSENT_SECONDS)
    assert (filling.is_enough, filling.is_over) == (True, False)
    readers[1].is_up, readers[1].log_share_read = True, 1.0
    filling.update_progress(200.0)
    assert filling.is_over
    assert set(intake.read) == {0, 1}


def test_it_is_over_when_what_the_logs_have_brought_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    readers, intake = [Reader(0), Reader(1)], Intake()
    filling = filling_of(readers, intake)
    for reader in readers:
        reader.log_share_read = 1.0
    intake.has_logged, intake.is_empty = True, False
    filling.update_progress(103.0)
    assert (filling.is_over, intake.read) == (False, [])
    intake.has_logged = False  # fresh ones may wait: they do so whenever actors are ahead
    intake.filled = 640
    with caplog.at_level(logging.INFO):
        filling.update_progress(104.0)
        filling.update_progress(105.0)
    assert filling.is_over
    assert caplog.messages == ["memory filled from the shards' logs: 640 transitions in 4.0 s"]


def test_the_log_that_ends_between_two_looks_loses_nothing() -> None:
    """Its last segment arrives during a look. The log does not count as read before that segment is taken."""
    reader, intake = Reader(0), Intake()
    filling = filling_of([reader], intake)

    class Ending:
        """Delivers its last segment whenever its progress is read."""

        shard, is_up = 0, True

        @property
        def log_share_read(self) -> float:
            intake.has_logged = True
            return 1.0

    filling._readers = cast(Any, [Ending()])
    filling.update_progress(101.0)
    assert intake.read == []


class Watch:
    def __init__(self) -> None:
        self.status = GetStatusResponse(state=RUN_STATE_COLLECTED)

    def actors(self, *alive: bool) -> None:
        self.status = GetStatusResponse(state=RUN_STATE_COLLECTED, members=[Member(role="actor", alive=one) for one in alive])


def end_of(watch: Watch, readers: list[Reader], intake: Intake) -> RunEnd:
    return RunEnd(cast(Any, watch), cast(Any, readers), cast(Any, intake))


def drained(*shards: float) -> list[Reader]:
    readers = [Reader(shard) for shard in range(len(shards))]
    for reader, seconds in zip(readers, shards, strict=True):
        reader.drained = seconds
    return readers


@pytest.mark.parametrize(
    ("state", "alive", "is_reached"),
    [
        (RUN_STATE_COLLECTED, (False, False), True),
        (RUN_STATE_FINISHED, (), True),
        (RUN_STATE_COLLECTED, (False, True), False),  # it may still write
        (RUN_STATE_RUNNING, (), False),
    ],
)
def test_it_is_reached_when_all_is_collected_and_no_actor_is_left(
    state: Any, alive: tuple[bool, ...], is_reached: bool
) -> None:
    watch = Watch()
    watch.actors(*alive)
    watch.status.state = state
    end = end_of(watch, drained(100.0, 100.0), Intake())
    assert not end.is_reached(10.0)  # empty queues before now do not count
    assert end.is_reached(10.0 + DRAINED_SECONDS) == is_reached


def test_it_is_not_reached_before_every_queue_is_drained_and_the_intake_empty() -> None:
    watch, readers, intake = Watch(), drained(100.0, 0.0), Intake()
    end = end_of(watch, readers, intake)
    now = 0.0
    for _ in range(20):
        now += LOOK_SECONDS
        assert not end.is_reached(now)
    readers[1].drained = DRAINED_SECONDS
    intake.is_empty = False
    now += LOOK_SECONDS
    assert not end.is_reached(now)
    intake.is_empty = True
    assert not end.is_reached(now + LOOK_SECONDS / 2)  # too early for the next look
    assert end.is_reached(now + LOOK_SECONDS)


def test_an_actor_that_comes_back_begins_the_wait_anew() -> None:
    watch = Watch()
    end = end_of(watch, drained(100.0), Intake())
    assert not end.is_reached(1.0)
    watch.actors(True)
    assert not end.is_reached(2.0)
    watch.actors(False)
    assert not end.is_reached(1.0 + DRAINED_SECONDS)
    assert end.is_reached(1.0 + 2 * DRAINED_SECONDS)


def test_a_shard_that_is_away_is_waited_for_for_half_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    watch, readers = Watch(), drained(100.0, 0.0, 0.0)
    readers[1].is_up = readers[2].is_up = False
    end = end_of(watch, readers, Intake())
    assert not end.is_reached(1.0)
    assert not end.is_reached(LOST_SHARD_SECONDS)
    readers[2].is_up = True  # one that answers is never given up
    assert not end.is_reached(LOST_SHARD_SECONDS + 5.0)
    readers[2].drained = 100.0
    assert end.is_reached(LOST_SHARD_SECONDS + 6.0)
    assert "replay shards [1] are away: what they have is missing" in caplog.text


def test_nothing_is_reached_before_the_coordinators_first_answer() -> None:
    end = end_of(cast(Any, SimpleNamespace(status=GetStatusResponse())), drained(100.0), Intake())
    assert not any(end.is_reached(now) for now in (1.0, 10.0, 100.0))
