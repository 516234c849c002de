"""The controller in a simulated fleet of up to 512 actors: it finds the right size and then keeps it.

The simulation is a fluid model with steps of a second. Actors of different speeds fill small queues, and a learner empties
them, both with noise. Pods take time to start and to stop, and sometimes crash. Counters arrive late, and from actors that are
blocked almost all the time they arrive in bursts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sbrl.coordination.fleet import RunState
from sbrl.monitor.load import History, LoadReading
from services.controller.reconcile import (
    Decision,
    Memory,
    Observed,
    Reason,
    ScalingSpec,
    history_seconds,
    reconcile,
)

Floats = NDArray[np.float64]

LOOK_SECONDS = 5
STEPS_PER_SECOND = 1000.0  # of an average actor at full speed
REPORT_STEPS = 128  # an actor reports its counts after this many steps
PRODUCTIVE_SECONDS = 4  # from joining to the first step: making environments, fetching weights
QUEUE_ROOM = 72.0  # capacity of all queues together, in transitions
HOUR = 3600


@dataclass
class Plant:
    """The simulated system. `demand` is the number of average actors that would feed the learner exactly."""

    demand: float
    seed: int = 0
    noise: float = 0.1  # of a second's production and of a second's training
    spread: float = 0.1  # of the actors' speeds
    start_seconds: tuple[float, float] = (5.0, 40.0)  # from a pod's creation to its joining
    crash_rate: float = 0.0  # per actor and second
    idle_blocked: float = 0.02  # fraction of time that actors spend waiting for confirmations
    sampling_limit: float = math.inf  # largest rate of batches, in actors, however many transitions there are
    places: int = 10_000  # capacity of the cluster, in pods


@dataclass
class Pods:
    """Actor pods, one row each."""

    speed: Floats = field(default_factory=lambda: np.empty(0))
    joins: Floats = field(default_factory=lambda: np.empty(0))  # time of joining
    leaves: Floats = field(default_factory=lambda: np.empty(0))
    unreported_steps: Floats = field(default_factory=lambda: np.empty(0))
    unreported_blocked: Floats = field(default_factory=lambda: np.empty(0))

    def keep(self, mask: NDArray[np.bool_]) -> None:
        for name, value in vars(self).items():
            setattr(self, name, value[mask])

    def add(self, count: int, **columns: Floats) -> None:
        for name, value in vars(self).items():
            setattr(self, name, np.concatenate([value, columns.get(name, np.zeros(count))]))


class Change(NamedTuple):
    time: float
    before: int
    after: int
    why: Reason


class Fleet:
    """A run under the controller."""

    def __init__(self, plant: Plant, spec: ScalingSpec, actors: int) -> None:
        self.plant, self.spec, self.wanted = plant, spec, actors
        self.changes: list[Change] = []
        self.decision: Decision | None = None
        self.starving: list[float] = []  # fraction of each second
        self._random = np.random.default_rng(plant.seed)
        self._history, self._memory = History(history_seconds(spec)), Memory()
        self._pods, self._now, self._level = Pods(), 0, 0.0
        self._updates = self._waited = self._blocked = 0.0
        self._create(actors, at_once=True)

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            if self._now % LOOK_SECONDS == 0:
                self._look()
            self._second()
            self._now += 1

    @property
    def now(self) -> float:
        return float(self._now)

    @property
    def speeds(self) -> Floats:
        """The speeds of the actors that stay."""
        speeds: Floats = self._pods.speed[np.isinf(self._pods.leaves)]
        return speeds

    def _look(self) -> None:
        live = int(np.sum(self._live()))
        reading = LoadReading(
            time=self.now,
            state=RunState.RUNNING,
            obstacle="" if live else "no actor is there",
            actors_wanted=self.wanted,
            actors_live=live,
            learner=1,
            updates=self._updates,
            learner_waited_seconds=self._waited,
            actors_blocked_seconds=self._blocked,
            queue_fill=self._level / QUEUE_ROOM,
        )
        decision = reconcile(Observed(self._history.add(reading), self._memory), self.spec)
        self._memory, self.decision = decision.memory, decision
        if decision.actors != self.wanted:
            self.changes.append(Change(self.now, self.wanted, decision.actors, decision.why))
            self._scale(decision.actors)

    def _scale(self, actors: int) -> None:
        there = len(self.speeds)
        if actors > there:
            self._create(min(actors, self.plant.places) - there)
        elif actors < there:
            chosen = self._random.choice(np.flatnonzero(np.isinf(self._pods.leaves)), there - actors, replace=False)
            self._pods.leaves[chosen] = self._now + self._random.uniform(1, 10, there - actors)
        self.wanted = actors

    def _create(self, count: int, at_once: bool = False) -> None:
        count = max(0, count)
        low, high = (0.0, 0.0) if at_once else self.plant.start_seconds
        self._pods.add(
            count,
            speed=STEPS_PER_SECOND * np.exp(self._random.normal(-(self.plant.spread**2) / 2, self.plant.spread, count)),
            joins=self._now + self._random.uniform(low, high, count),
            leaves=np.full(count, np.inf),
        )

    def _live(self) -> NDArray[np.bool_]:
        return (self._pods.joins <= self._now) & (self._pods.leaves > self._now)

    def _second(self) -> None:
        plant, pods = self.plant, self._pods
        pods.keep(pods.leaves > self._now)
        crashed = self._random.random(len(pods.speed)) < plant.crash_rate
        pods.joins[crashed] = self._now + 20
        live = self._live()
        working = live & (pods.joins + PRODUCTIVE_SECONDS <= self._now)
        collects = float(np.sum(pods.speed[working])) * self._noise()
        trains = plant.demand * STEPS_PER_SECOND * self._noise()
        trained = min(trains, plant.sampling_limit * STEPS_PER_SECOND, self._level + collects)
        inserted = min(collects, trained + QUEUE_ROOM - self._level)
        self._level = min(QUEUE_ROOM, max(0.0, self._level + inserted - trained))
        held = 1.0 - inserted / collects if collects else 0.0
        blocked = held + (1.0 - held) * plant.idle_blocked
        # The next look sees the counters of this second, so one second late.
        pods.unreported_steps[working] += pods.speed[working] * (1.0 - held)
        pods.unreported_blocked[working] += blocked
        reports = pods.unreported_steps >= REPORT_STEPS
        self._blocked += float(np.sum(pods.unreported_blocked[reports]))
        pods.unreported_steps[reports] = pods.unreported_blocked[reports] = 0.0
        self._updates += trained
        self._waited += 1.0 - trained / trains
        self.starving.append(max(0.0, 1.0 - trained / min(trains, plant.sampling_limit * STEPS_PER_SECOND)))

    def _noise(self) -> float:
        return float(np.exp(self._random.normal(-(self.plant.noise**2) / 2, self.plant.noise)))


def reversals(changes: list[Change]) -> int:
    """Number of changes of direction."""
    signs = [change.after > change.before for change in changes]
    return sum(one != two for one, two in pairwise(signs))


def fits(fleet: Fleet) -> bool:
    """Whether the fleet has the right size: its load is within its limits, plus or minus one actor, as small fleets are coarse.

    Uses the speeds of the present actors: the remaining ones may be faster or slower than average. Noise leaves the estimate
    wrong by a few per cent.
    """
    demand, spec = fleet.plant.demand * STEPS_PER_SECOND / float(np.mean(fleet.speeds)), fleet.spec
    low = 0.97 * demand / spec.high_load - 1
    high = 1.03 * max(demand / spec.low_load, demand / spec.target_load + 1) + 1
    return max(low, spec.min_actors) <= fleet.wanted <= max(high, spec.min_actors) or low > spec.max_actors == fleet.wanted


WIDE = ScalingSpec(min_actors=1, max_actors=512)
plants = st.builds(
    Plant,
    demand=st.floats(0.2, 20.0) | st.floats(20.0, 480.0),
    seed=st.integers(0, 2**32 - 1),
    noise=st.floats(0.0, 0.15),
    spread=st.floats(0.0, 0.3),
    start_seconds=st.tuples(st.floats(1.0, 30.0), st.floats(30.0, 50.0)),
    crash_rate=st.just(0.0) | st.floats(0.0, 1 / 3600),
    idle_blocked=st.floats(0.0, 0.3),
)


def check_found_and_kept(plant: Plant, actors: int) -> None:
    fleet = Fleet(plant, WIDE, actors)
    fleet.run(1.5 * HOUR)
    assert fits(fleet), fleet.changes
    assert reversals(fleet.changes) <= 2, fleet.changes  # the last steps may overshoot a little
    found = len(fleet.changes)
    fleet.run(1.5 * HOUR)
    assert fits(fleet), fleet.changes
    late = fleet.changes[found:]
    assert len(late) <= 2, late
    assert all(abs(change.after - change.before) <= 1 + 0.15 * change.before for change in late), late
    assert np.mean(fleet.starving[-HOUR:]) < 0.08


@pytest.mark.timeout(600)
@settings(max_examples=12)
@given(plants, st.integers(1, 512))
def test_the_right_size_is_found_and_kept(plant: Plant, actors: int):
    check_found_and_kept(plant, actors)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=300)
@given(plants, st.integers(1, 512))
def test_the_right_size_is_found_and_kept_in_many_fleets(plant: Plant, actors: int):
    check_found_and_kept(plant, actors)


@pytest.mark.parametrize("seed", range(2))
def test_a_change_of_the_learners_speed_is_followed(seed: int):
    fleet = Fleet(Plant(demand=40, seed=seed), WIDE, 4)
    for demand, seconds in ((40, 2700), (120, 2700), (10, 2 * HOUR)):
        fleet.plant.demand = demand
        fleet.run(seconds)
        assert fits(fleet), (demand, fleet.changes)
    directions = [change.after > change.before for change in fleet.changes]
    assert directions == sorted(directions, reverse=True), fleet.changes  # up, up, and then only down


def test_512_actors_are_reached_from_one():
    fleet = Fleet(Plant(demand=500), WIDE, 1)
    fleet.run(HOUR)
    assert fleet.wanted == 512
    assert reversals(fleet.changes) == 0
    assert np.mean(fleet.starving[-600:]) < 0.05


def test_a_fleet_that_crashes_all_the_time_is_not_scaled():
    fleet = Fleet(Plant(demand=40, crash_rate=1 / 60), WIDE, 8)
    fleet.run(HOUR)
    assert len(fleet.changes) <= 1
    assert fleet.wanted <= 16


def test_a_full_cluster_is_not_asked_for_ever_more():
    fleet = Fleet(Plant(demand=100, places=16), WIDE, 4)
    fleet.run(HOUR)
    assert [change.after for change in fleet.changes] == [8, 16, 32]
    assert fleet.decision is not None
    assert "16 of 32 actors have not joined yet" in fleet.decision.reason


@pytest.mark.parametrize("seed", range(2))
def test_a_learner_that_cannot_be_served_faster_gets_no_useless_actors(seed: int):
    """Its batches arrive at half the speed at which it could train, however many actors there are."""
    fleet = Fleet(Plant(demand=40, seed=seed, sampling_limit=20), WIDE, 4)
    fleet.run(3 * HOUR)
    assert 19 <= fleet.wanted <= 25, fleet.changes
    assert reversals(fleet.changes) <= 2, fleet.changes


def test_an_estimate_that_misleads_makes_it_swing_seldom():
    """A fleet in which no size looks right: too few actors starve the learner, and one more looks like far too many. It goes
    down and up again once in half an hour, because for that long it does not return to a size at which the learner starved.
    """
    spec, memory, history, wanted, changes = WIDE, Memory(), History(history_seconds(WIDE)), 10, []
    waited = blocked = 0.0
    for look in range(4 * HOUR // LOOK_SECONDS):
        starved = wanted <= 10
        waited += 0.2 * LOOK_SECONDS if starved else 0.0
        blocked += 0.0 if starved else 0.25 * wanted * LOOK_SECONDS
        now = float(look * LOOK_SECONDS)
        reading = LoadReading(now, RunState.RUNNING, "", wanted, wanted, 1, now, waited, blocked, 0.0 if starved else 1.0)
        decision = reconcile(Observed(history.add(reading), memory), spec)
        memory = decision.memory
        if decision.actors != wanted:
            changes.append(Change(now, wanted, decision.actors, decision.why))
            wanted = decision.actors
    assert 2 <= reversals(changes) <= 2 * (4 * HOUR / spec.memory_seconds + 1), changes
