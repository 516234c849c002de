"""The controller's decisions: properties over any history, and the decision for each reading."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sbrl.coordination.fleet import RunState
from sbrl.errors import UsageError
from sbrl.monitor.load import LoadReading, Measured
from services.controller.reconcile import (
    MAX_GAP_SECONDS,
    Decision,
    Memory,
    Observed,
    Reason,
    ScalingSpec,
    check,
    history_seconds,
    learn,
    load,
    reconcile,
    undisturbed,
)

SPEC = ScalingSpec(min_actors=2, max_actors=100)
STEP = 5.0


def make_memory(fields: dict[str, Any]) -> Memory:
    return Memory(**fields)


def make_spec(fields: dict[str, Any]) -> ScalingSpec:
    return ScalingSpec(**fields)


def steady(
    seconds: float,
    actors: int,
    *,
    waiting: float = 0.0,
    blocked: float = 0.0,
    fill: float | None = None,
    wanted: int | None = None,
    **fields: Any,
) -> tuple[LoadReading, ...]:
    """Readings every five seconds of an unchanging fleet."""
    if fill is None:
        fill = 0.0 if waiting > blocked else 1.0 if blocked > waiting else 0.5
    return tuple(
        LoadReading(
            time=STEP * k,
            state=RunState.RUNNING,
            obstacle="",
            actors_wanted=actors if wanted is None else wanted,
            actors_live=actors,
            learner=1,
            updates=STEP * k,
            learner_waited_seconds=waiting * STEP * k,
            actors_blocked_seconds=blocked * actors * STEP * k,
            queue_fill=fill,
        )._replace(**fields)
        for k in range(int(seconds / STEP) + 1)
    )


def decide(readings: tuple[LoadReading, ...], spec: ScalingSpec = SPEC, memory: Memory = Memory()) -> Decision:  # noqa: B008  # immutable
    return reconcile(Observed(readings, memory), spec)


# Over any history

shares = st.floats(0, 1)


@st.composite
def histories(draw: st.DrawFn) -> tuple[LoadReading, ...]:
    """A history with occasional changes, in which counters grow no faster than time."""
    now, waited, blocked, updates = 0.0, 0.0, 0.0, 0.0
    readings = []
    for _ in range(draw(st.integers(1, 3))):
        state = draw(st.sampled_from([*[RunState.RUNNING] * 8, RunState.COLLECTED, None]))
        obstacle = "" if state is not None and draw(st.integers(0, 9)) else "something is in the way"
        wanted = draw(st.integers(5, 30) | st.integers(5, 30) | st.integers(0, 200))
        live = wanted if draw(st.integers(0, 4)) else draw(st.integers(0, 120))
        learner, dt = draw(st.integers(1, 2)), draw(st.floats(5, 20) | st.floats(2, 40))
        waiting, blocking = draw(st.tuples(shares, st.just(0.0)) | st.tuples(st.just(0.0), shares) | st.tuples(shares, shares))
        fill, speed = draw(shares), draw(shares)
        for _ in range(draw(st.integers(1, 15) | st.integers(15, 40))):
            now += dt
            waited, blocked, updates = waited + waiting * dt, blocked + blocking * live * dt, updates + speed * dt
            readings.append(LoadReading(now, state, obstacle, wanted, live, learner, updates, waited, blocked, fill))
    return tuple(readings)


memories = st.fixed_dictionaries(
    {
        "idle_blocked": st.floats(0, 0.5),
        "idle_waiting": st.floats(0, 0.5),
        "starved_time": st.floats(0, 1000) | st.just(-math.inf),
        "starved_actors": st.integers(0, 120),
    }
).map(make_memory)
specs = st.fixed_dictionaries(
    {
        "min_actors": st.integers(1, 5),
        "max_actors": st.integers(30, 150),
        "settle_seconds": st.floats(0, 60),
        "urgent_window_seconds": st.floats(5, 60),
        "window_seconds": st.floats(60, 120),
        "max_growth": st.floats(0.05, 3),
        "max_shrink": st.floats(0.05, 1),
    }
).map(make_spec)


@settings(max_examples=20)
@given(histories(), memories, specs)
def test_it_is_pure(readings: tuple[LoadReading, ...], memory: Memory, spec: ScalingSpec):
    assert decide(readings, spec, memory) == decide(readings, spec, memory)


@settings(max_examples=150)
@given(histories(), memories, specs)
def test_bounds_and_rates_hold(readings: tuple[LoadReading, ...], memory: Memory, spec: ScalingSpec):
    now, decision = readings[-1], decide(readings, spec, memory)
    wanted, actors = now.actors_wanted, decision.actors
    if now.state is None:
        assert actors == wanted
    elif now.state is RunState.COLLECTED:
        assert actors == (0 if now.actors_live == 0 else wanted)
    else:
        assert spec.min_actors <= actors <= spec.max_actors
        if spec.min_actors <= wanted <= spec.max_actors:
            assert actors <= wanted + max(1, math.floor(wanted * spec.max_growth))
            assert actors >= wanted - max(1, math.floor(wanted * spec.max_shrink))


@settings(max_examples=150)
@given(histories(), memories, specs)
def test_nothing_is_changed_soon_after_a_change_or_in_a_fleet_that_cannot_be_judged(
    readings: tuple[LoadReading, ...], memory: Memory, spec: ScalingSpec
):
    now = readings[-1]
    assume(now.state is RunState.RUNNING and spec.min_actors <= now.actors_wanted <= spec.max_actors)
    quiet_since = now.time
    for before, after in reversed(list(pairwise(readings))):
        same = before._replace(time=0, **COUNTED) == after._replace(time=0, **COUNTED)
        if not same or after.time - before.time > MAX_GAP_SECONDS:
            break
        quiet_since = before.time
    if now.obstacle or now.time - quiet_since < spec.settle_seconds + spec.urgent_window_seconds:
        assert decide(readings, spec, memory).actors == now.actors_wanted


# Fields of a reading that may differ although nothing has changed.
COUNTED: dict[str, Any] = {
    "updates": 0.0,
    "learner_waited_seconds": 0.0,
    "actors_blocked_seconds": 0.0,
    "queue_fill": 0.0,
    "actors_live": 0,
}


@given(histories(), memories, specs)
def test_only_a_waiting_learner_adds_actors_and_only_blocked_ones_go(
    readings: tuple[LoadReading, ...], memory: Memory, spec: ScalingSpec
):
    wanted = readings[-1].actors_wanted
    quieted: tuple[tuple[Reason, dict[str, Any]], ...] = (
        (Reason.UP, {"learner_waited_seconds": 0.0}),
        (Reason.DOWN, {"actors_blocked_seconds": 0.0}),
    )
    for why, quiet in quieted:
        decision = decide(tuple(reading._replace(**quiet) for reading in readings), spec, memory)
        assert decision.why is not why
    decision = decide(readings, spec, memory)
    assert (decision.why is Reason.UP) <= (decision.actors > wanted)
    assert (decision.why is Reason.DOWN) <= (decision.actors < wanted)


@settings(max_examples=40)
@given(st.floats(0.05, 400), st.integers(1, 512))
def test_a_fleet_without_noise_goes_straight_to_its_size_and_stays(demand: float, actors: int):
    """From any first size, each step at most halves or doubles it, the last one is exact, and no step is undone."""
    spec, memory, sizes = ScalingSpec(min_actors=1, max_actors=512), Memory(), [actors]
    for _ in range(20):
        exact = demand / sizes[-1]
        readings = steady(500, sizes[-1], waiting=max(0.0, 1 - 1 / exact), blocked=max(0.0, 1 - exact))
        decision = decide(readings, spec, memory)
        memory = decision.memory
        sizes.append(decision.actors)
    steps = [after - before for before, after in pairwise(sizes) if after != before]
    assert all(step > 0 for step in steps) or all(step < 0 for step in steps), sizes
    assert sizes[-1] == sizes[-2]
    assert demand / sizes[-1] <= spec.high_load + 1e-9
    assert demand / sizes[-1] >= spec.low_load - 1e-9 or sizes[-1] == 1 or sizes[-1] <= math.ceil(demand / spec.target_load)


# What a reading leads to


@pytest.mark.parametrize(
    ("readings", "actors", "why", "reason"),
    [
        pytest.param(steady(125, 10, waiting=0.3), 16, Reason.UP, "the learner waited 30% of the last 60 s", id="starved"),
        pytest.param(steady(125, 10, waiting=0.9), 20, Reason.UP, "the learner waited 90%", id="at most doubled"),
        pytest.param(steady(115, 10, waiting=0.9), 10, Reason.HOLD, "measuring: 55 of 60 s", id="too soon"),
        pytest.param(steady(355, 10, waiting=0.1), 10, Reason.BALANCED, "measured for 295 s", id="not urgent, too soon"),
        pytest.param(steady(360, 10, waiting=0.1), 12, Reason.UP, "the learner waited 10% of the last 300 s", id="not urgent"),
        pytest.param(steady(600, 10, waiting=0.04), 10, Reason.BALANCED, "the load is 1.04", id="hardly starved"),
        pytest.param(steady(600, 10, blocked=0.14), 10, Reason.BALANCED, "the load is 0.86", id="hardly blocked"),
        pytest.param(steady(360, 10, blocked=0.3), 8, Reason.DOWN, "actors were blocked by the learner 30%", id="blocked"),
        pytest.param(steady(355, 10, blocked=0.3), 10, Reason.BALANCED, "the load is 0.70", id="blocked, too soon"),
        pytest.param(steady(360, 10, blocked=0.9), 5, Reason.DOWN, "90%", id="at most halved"),
        pytest.param(steady(360, 3, blocked=0.9), 2, Reason.DOWN, "90%", id="one of few goes"),
        pytest.param(steady(360, 2, blocked=0.9), 2, Reason.BALANCED, "the load is 0.10", id="at the least"),
        pytest.param(steady(125, 100, waiting=0.3), 100, Reason.LIMITED, "100 actors are the most allowed", id="at the most"),
        pytest.param(steady(125, 99, waiting=0.3), 100, Reason.UP, "30%", id="up to the most"),
        pytest.param(steady(5, 500), 100, Reason.BOUNDS, "2 to 100", id="above the bounds"),
        pytest.param(steady(5, 0), 2, Reason.BOUNDS, "2 to 100", id="none, though the run goes on"),
        pytest.param(
            steady(125, 10, waiting=0.3, wanted=12), 12, Reason.HOLD, "2 of 12 actors have not joined yet", id="pods pending"
        ),
        pytest.param(steady(125, 10, waiting=0.3, updates=0.0), 10, Reason.HOLD, "makes no updates", id="learner stuck"),
        pytest.param(steady(125, 10, waiting=1.0, updates=0.0), 20, Reason.UP, "100%", id="starved to a standstill"),
        pytest.param(steady(125, 10, waiting=0.3, obstacle="x"), 10, Reason.HOLD, "x", id="obstacle"),
        pytest.param(steady(125, 10, state=None, obstacle="x"), 10, Reason.HOLD, "x", id="no answer"),
        pytest.param(steady(5, 500, state=None, obstacle="x"), 500, Reason.HOLD, "x", id="no answer, above the bounds"),
        pytest.param(steady(5, 10, state=RunState.FINISHED), 0, Reason.DONE, "all steps", id="finished"),
        pytest.param(steady(5, 10, state=RunState.COLLECTED), 10, Reason.HOLD, "write their last ones", id="collected"),
        pytest.param(
            steady(5, 0, state=RunState.COLLECTED, wanted=10), 0, Reason.DONE, "all steps", id="collected and written"
        ),
    ],
)
def test_decisions(readings: tuple[LoadReading, ...], actors: int, why: Reason, reason: str):
    decision = decide(readings)
    assert (decision.actors, decision.why) == (actors, why), decision
    assert reason in decision.reason


def test_actors_that_come_and_go_are_no_basis():
    readings = steady(200, 40, waiting=0.3)
    assert decide(readings).why is Reason.UP
    crashing = (*readings[:-2], readings[-2]._replace(actors_live=35), readings[-1])
    assert decide(crashing).reason == "actors come and go: 35 to 40 of them were there"
    assert decide((*readings[:-2], readings[-2]._replace(actors_live=39), readings[-1])).why is Reason.UP  # one of forty


@pytest.mark.parametrize(
    "change",
    [{"actors_wanted": 11}, {"learner": 2}, {"obstacle": "x"}, {"state": None, "obstacle": "x"}],
    ids=["size", "learner", "obstacle", "no answer"],
)
def test_a_disturbance_starts_the_measurement_anew(change: dict[str, Any]):
    readings = list(steady(500, 10, waiting=0.3))
    readings[80] = readings[80]._replace(**change)  # at 400 s
    calm = undisturbed(readings, 60)
    assert (calm[0].time, calm[-1].time) == (465, 500)
    assert undisturbed(readings[:80], 60)[0].time == 60


def test_a_gap_starts_the_measurement_anew():
    readings = [reading for reading in steady(500, 10) if not 300 <= reading.time < 300 + MAX_GAP_SECONDS]
    assert undisturbed(readings, 60)[0].time == 300 + MAX_GAP_SECONDS + 60
    assert undisturbed([reading for reading in steady(500, 10) if not 300 <= reading.time < 325], 60)[0].time == 60


def measured(waiting: float, blocked: float, fill: float) -> Measured:
    return Measured(60, 10, waiting, blocked, fill, 60)


def test_what_confirming_items_takes_is_not_taken_for_too_many_actors():
    starving = measured(waiting=0.3, blocked=0.2, fill=0.02)  # the queues do not block the actors
    memory = learn(Memory(), starving)
    assert memory.idle_blocked == 0.2
    assert load(starving, memory) == pytest.approx(1 / 0.7)
    assert load(measured(waiting=0.0, blocked=0.2, fill=0.9), memory) == pytest.approx(1.0)
    assert load(measured(waiting=0.0, blocked=0.6, fill=1.0), memory) == pytest.approx(0.5)
    assert learn(memory, measured(waiting=0.0, blocked=0.1, fill=0.5)).idle_blocked == 0.1  # at most the observed value


def test_what_fetching_batches_takes_is_not_taken_for_too_few_actors():
    abounding = measured(waiting=0.4, blocked=0.5, fill=0.98)  # the learner waits although there are transitions
    memory = learn(Memory(), abounding)
    assert memory.idle_waiting == 0.4
    assert load(abounding, memory) == pytest.approx(0.5)
    assert load(measured(waiting=0.4, blocked=0.0, fill=0.6), memory) == pytest.approx(1.0)
    assert load(measured(waiting=0.4, blocked=0.0, fill=0.0), memory) == pytest.approx(1 / 0.6)  # now for transitions


def test_a_size_at_which_the_learner_starved_is_not_gone_back_to_for_a_while():
    fleet = steady(1000, 11, blocked=0.2)  # nine would be enough
    assert decide(fleet).actors == 10
    starved = Memory(starved_time=900.0, starved_actors=10)
    assert decide(fleet, memory=starved).actors == 11
    assert decide(fleet, memory=starved._replace(starved_time=1000 - SPEC.memory_seconds - 1)).actors == 10
    assert decide(steady(1000, 11, blocked=0.7), memory=starved).actors == 6  # such a large difference is not noise


def test_starving_is_remembered():
    decision = decide(steady(125, 10, waiting=0.3))
    assert (decision.memory.starved_time, decision.memory.starved_actors) == (125, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_actors": 0}, "1 <= min_actors"),
        ({"min_actors": 101}, "1 <= min_actors <= max_actors, else there is no size to choose"),
        ({"low_load": 0.95}, "low_load < target_load"),
        ({"high_load": 0.9}, "target_load < high_load"),
        ({"urgent_load": 1.0}, "high_load < urgent_load"),
        ({"target_load": 1.01}, "target_load <= 1, else the learner starves by design"),
        ({"urgent_window_seconds": 301}, "urgent_window_seconds <= window_seconds"),
        ({"settle_seconds": -1}, "settle_seconds >= 0"),
        ({"max_growth": 0}, "max_growth > 0"),
        ({"max_shrink": 1.5}, "0 < max_shrink <= 1"),
        ({"memory_seconds": -1}, "memory_seconds >= 0"),
    ],
)
def test_specs_that_cannot_be(change: dict[str, Any], message: str):
    check(SPEC)
    with pytest.raises(UsageError, match=f"{re.escape(message)}.*; it was given .*{next(iter(change))}="):
        check(SPEC._replace(**change))


def test_the_history_reaches_back_as_far_as_decisions_do():
    """The decision from the kept readings is the same as from all readings."""
    readings = steady(2000, 10, blocked=0.5)
    kept = tuple(reading for reading in readings if reading.time >= readings[-1].time - history_seconds(SPEC))
    assert len(kept) < len(readings)
    assert decide(kept) == decide(readings)
    assert decide(kept).why is Reason.DOWN
