"""The controller's readings from the coordinator's answers."""

from __future__ import annotations

from typing import Any

import pytest

from sbrl.config import build
from sbrl.coordination.fleet import RunState
from sbrl.monitor.load import History, LoadReading, no_answer, queue_fill, read
from sbrl.v1.fleet_pb2 import (
    LEARNER_STATE_FILLING,
    LEARNER_STATE_TRAINING,
    GetStatusResponse,
    LearnerProgress,
    LearnerState,
    Member,
    ShardProgress,
)

CONFIG = build({"replay": {"num_shards": 2, "min_size": 1000}})


def member(role: str, index: int = 0, alive: bool = True, incarnation: int = 1, **gauges: float) -> Member:
    return Member(role=role, name=f"{role}-{index}", index=index, alive=alive, incarnation=incarnation, gauges=gauges)


def shard(index: int, waiting: float = 0, alive: bool = True) -> Member:
    return member("replay", index, alive=alive, queue_segments=waiting, queue_capacity=8)


def status(
    *changes: Member,
    without: str = "",
    state: RunState = RunState.RUNNING,
    received: tuple[int, int] = (2000, 2000),
    answers: tuple[bool, bool] = (True, True),
    learner: LearnerState = LEARNER_STATE_TRAINING,
) -> GetStatusResponse:
    """A healthy fleet: two shards, a learner, two actors. `changes` replace the members with their names."""
    members = {
        one.name: one
        for one in (
            *(shard(0), shard(1), member("learner", incarnation=7)),
            *(member("actor", 0), member("actor", 1), member("actor", 2, alive=False)),
            *changes,
        )
    }
    shards = [ShardProgress(received=number, answers=up) for number, up in zip(received, answers, strict=True)]
    return GetStatusResponse(
        members=[one for one in members.values() if one.role != without],
        state=state.wire_name,
        totals={"learner.blocked_seconds.replay": 3.0, "actor.blocked_seconds.replay": 4.0, "actor.blocked_seconds": 9.0},
        progress=LearnerProgress(updates=50, shards=shards, state=learner),
    )


def test_a_fleet_that_is_well():
    assert read(status(), CONFIG, 12.0, 3) == LoadReading(
        time=12.0,
        state=RunState.RUNNING,
        obstacle="",
        actors_wanted=3,
        actors_live=2,
        learner=7,
        updates=50,
        learner_waited_seconds=3,
        actors_blocked_seconds=4,
        queue_fill=0,
    )


@pytest.mark.parametrize(
    ("answer", "obstacle"),
    [
        (status(state=RunState.COLLECTED), "the run is not running"),
        (status(received=(999, 0)), "the run is warming up: 999 of 1,000 transitions"),
        (status(learner=LEARNER_STATE_FILLING), "the learner fills its memory"),
        (status(shard(1, alive=False)), "1 of 2 replay shards are there"),
        (status(without="replay"), "0 of 2 replay shards are there"),
        (status(without="learner"), "no learner is there"),
        (status(member("learner", alive=False)), "no learner is there"),
        (status(answers=(True, False)), "the learner reaches 1 of 2 replay shards"),
        (status(without="actor"), "no actor is there"),
    ],
)
def test_what_keeps_a_fleet_from_being_judged(answer: GetStatusResponse, obstacle: str):
    assert read(answer, CONFIG, 0.0, 3).obstacle == obstacle


def test_no_answer():
    reading = no_answer(1.0, 3, "it is away")
    assert (reading.state, reading.obstacle, reading.actors_wanted) == (None, "it is away", 3)


@pytest.mark.parametrize(("waiting", "fill"), [((0, 0), 0.0), ((8, 0), 0.5), ((8, 8), 1.0), ((2, 4), 0.375), ((9, 8), 1.0)])
def test_the_queues_are_as_full_as_their_mean(waiting: tuple[float, float], fill: float):
    assert read(status(shard(0, waiting[0]), shard(1, waiting[1])), CONFIG, 0.0, 3).queue_fill == fill


def test_a_shard_that_is_away_says_nothing_of_the_queues():
    assert read(status(shard(0, 8), shard(1, 0, alive=False)), CONFIG, 0.0, 3).queue_fill == 1.0


@pytest.mark.parametrize("gauges", [{}, {"queue_segments": 3.0}, {"queue_segments": float("nan"), "queue_capacity": 8.0}])
def test_a_shard_that_does_not_say_how_full_its_queue_is_counts_as_half_full(gauges: dict[str, Any]):
    assert queue_fill(member("replay", **gauges)) == 0.5


def test_history_keeps_what_is_needed():
    history = History(seconds=10)
    for time in range(0, 100, 5):
        kept = history.add(no_answer(float(time), 1, "x"))
    assert [reading.time for reading in kept] == [85, 90, 95]
