"""What the controller reads from the coordinator's answers."""

from __future__ import annotations

import pytest

from sbrl.config import build
from sbrl.fleet import RunState
from sbrl.sharding import shard_limits
from sbrl.v1.fleet_pb2 import GetStatusResponse, Member
from services.controller.reconcile import Reading
from services.controller.signals import History, limiter_fill, no_answer, read

CONFIG = build({"replay": {"num_shards": 2, "min_size": 1000}})


def member(role: str, index: int = 0, alive: bool = True, incarnation: int = 1, **gauges: float) -> Member:
    return Member(role=role, name=f"{role}-{index}", index=index, alive=alive, incarnation=incarnation, gauges=gauges)


def shard(index: int, inserts: float = 2000, above: float = 0.0, **fields: object) -> Member:
    """A shard whose limiter stands `above` samples over its lower end."""
    limits = shard_limits(CONFIG, index)
    samples = inserts * limits.samples_per_insert - limits.min_diff - above
    return member("replay", index, limiter_inserts=inserts, limiter_samples=samples, **fields)  # type: ignore[arg-type]


def status(
    *changes: Member, without: str = "", state: RunState = RunState.RUNNING, inserted: float = 4000
) -> GetStatusResponse:
    """A fleet that is well: two shards, a learner, two actors; `changes` replace the members of their name."""
    members = {
        one.name: one
        for one in (
            *(shard(0), shard(1), member("learner", incarnation=7, shards_ready=2)),
            *(member("actor", 0), member("actor", 1), member("actor", 2, alive=False)),
            *changes,
        )
    }
    return GetStatusResponse(
        members=[one for one in members.values() if one.role != without],
        state=state.wire_name,
        totals={
            "replay.transitions_inserted": inserted,
            "learner.updates": 50.0,
            "learner.blocked_seconds": 3.0,
            "actor.blocked_seconds": 4.0,
        },
    )


def test_a_fleet_that_is_well():
    assert read(status(), CONFIG, 12.0, 3) == Reading(
        time=12.0,
        state=RunState.RUNNING,
        obstacle="",
        actors_wanted=3,
        actors_live=2,
        learner=7,
        updates=50,
        learner_waited_seconds=3,
        actors_blocked_seconds=4,
        limiter_fill=0,
    )


@pytest.mark.parametrize(
    ("answer", "obstacle"),
    [
        (status(state=RunState.COLLECTED), "the run is not running"),
        (status(inserted=999), "the replay is filling: 999 of 1,000 transitions"),
        (status(shard(1, alive=False)), "1 of 2 replay shards are there"),
        (status(without="replay"), "0 of 2 replay shards are there"),
        (status(shard(1, inserts=499)), "replay-1 is filling: 499 of 500 transitions"),
        (status(without="learner"), "no learner is there"),
        (status(member("learner", alive=False, shards_ready=2)), "no learner is there"),
        (status(member("learner", shards_ready=1)), "the learner reaches 1 of 2 replay shards"),
        (status(without="actor"), "no actor is there"),
    ],
)
def test_what_keeps_a_fleet_from_being_judged(answer: GetStatusResponse, obstacle: str):
    assert read(answer, CONFIG, 0.0, 3).obstacle == obstacle


def test_no_answer():
    reading = no_answer(1.0, 3, "it is away")
    assert (reading.state, reading.obstacle, reading.actors_wanted) == (None, "it is away", 3)


@pytest.mark.parametrize(
    "overrides", [{}, {"learner": {"batch_size": 32, "updates_per_step": 8}}, {"replay": {"error_buffer": 8}}]
)
def test_limiters_at_their_ends(overrides: dict[str, dict[str, float]]):
    """Held back at an end a limiter stands up to one insert from it: that is the end, within a tenth."""
    config = build(overrides)
    limits = shard_limits(config, 0)
    room = limits.max_diff - limits.min_diff
    inserts = 100_000.0

    def fill(above: float) -> float:
        samples = inserts * limits.samples_per_insert - limits.min_diff - above
        return limiter_fill(member("replay", limiter_inserts=inserts, limiter_samples=samples), config)

    def mean(low: float, high: float) -> float:
        return sum(fill(low + (high - low) * k / 20) for k in range(21)) / 21

    assert mean(0, limits.samples_per_insert) < 0.1
    assert mean(room - limits.samples_per_insert, room) > 0.9
    assert fill(room / 2) == pytest.approx(0.5)
    assert (fill(-1e9), fill(1e9)) == (0, 1)


def test_a_gauge_that_is_no_number_says_nothing():
    assert limiter_fill(member("replay", limiter_inserts=float("nan"), limiter_samples=1.0), CONFIG) == 0.5


def test_history_keeps_what_is_needed():
    history = History(seconds=10)
    for time in range(0, 100, 5):
        kept = history.add(no_answer(float(time), 1, "x"))
    assert [reading.time for reading in kept] == [85, 90, 95]
