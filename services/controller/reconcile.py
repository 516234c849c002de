"""Computes how many actors the run needs, from how full its queues are and who waits for whom. Pure.

It estimates one number, the *demand*: how many actors at full speed would collect exactly what the learner trains on,

    demand = live actors x (1 - fraction of time that actors are blocked) / (1 - fraction of time that the learner waits)

because in balance actors collect what the learner trains on (full queues ensure that). The *load* is demand / actors: above 1
the learner starves, well below 1 actors are idle. The fleet is sized for a load of `target_load`: the fewest actors that hold
the ratio, with a small margin for noise. It is not changed while the load is between `low_load` and `high_load`.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from typing import NamedTuple

from sbrl.coordination.fleet import RunState
from sbrl.errors import UsageError, plain
from sbrl.monitor.load import LoadReading, Measured, measure, span

MAX_GAP_SECONDS = 30.0  # a longer gap between two readings breaks a measurement: too much can have happened in between
LIVE_TOLERANCE = 0.05  # fraction of the fleet that may come and go, or be missing, without spoiling an estimate
# A learner that waits all the time shows that more actors are needed, but not how many.
MAX_LOAD = 20.0
# Mean fill of the queues below which the learner takes segments as they arrive, and above which actors wait.
QUEUES_EMPTY, QUEUES_FULL = 0.1, 0.9
# No healthy role spends a larger fraction of its time than this on fetching batches or waiting for confirmations.
MAX_IDLE = 0.5
# To shrink back to a size at which the learner just starved, the new size must be below this fraction of it: not just noise.
CLEARLY_LESS = 0.75


class ScalingSpec(NamedTuple):
    """Bounds and thresholds for the fleet's size. Loads: see this module's docstring."""

    min_actors: int = 1
    max_actors: int = 64
    target_load: float = 0.93  # the load that a change aims at
    low_load: float = 0.85  # below this, actors are removed
    high_load: float = 1.05  # above this, actors are added: the learner waits about 5 % of its time
    urgent_load: float = 1.25  # above this, they are added sooner: the learner waits 20 % of its time
    settle_seconds: float = 60.0  # from any change to the first reading used: pods start, the queues find their level
    window_seconds: float = 300.0  # measured before a change
    urgent_window_seconds: float = 60.0  # measured before an urgent change: an idle learner costs more than idle actors
    max_growth: float = 1.0  # largest fraction of the fleet to add at once (at least one actor)
    max_shrink: float = 0.5  # largest fraction of the fleet to remove at once (at least one actor)
    memory_seconds: float = 1800.0  # for this long the fleet does not return to a size at which the learner starved


class Memory(NamedTuple):
    """Knowledge from before the readings."""

    idle_blocked: float = 0.0  # fraction of time that actors are blocked although queues have room: confirming segments
    idle_waiting: float = 0.0  # fraction of time that the learner waits although queues are full: fetching batches
    starved_time: float = -math.inf  # when the learner last starved
    starved_actors: int = 0  # and how many actors there were then


class Observed(NamedTuple):
    """Everything that a decision depends on."""

    readings: tuple[LoadReading, ...]  # at least one, oldest first; the last one is the present
    memory: Memory = Memory()  # from the last decision


class Reason(enum.Enum):
    """The reasons for a decision. The values are labels in metrics."""

    UP = "learner_starved"
    DOWN = "actors_blocked"
    BOUNDS = "bounds"
    DONE = "run_done"
    BALANCED = "balanced"
    LIMITED = "at_max_actors"  # the learner starves, and no more actors are allowed
    HOLD = "hold"  # the fleet cannot be judged now


class Decision(NamedTuple):
    """How many actors there should be, and why."""

    actors: int
    why: Reason
    reason: str  # part of a sentence: "the learner waited 31% of the last 60 s for transitions"
    memory: Memory  # to pass in with the next observation
    measured: Measured | None = None  # the newest measurement; None if there is none
    load: float | None = None


def check(spec: ScalingSpec) -> None:
    """
    Raises:
        UsageError: the spec contradicts itself. The message says how.
    """
    rules = [
        (1 <= spec.min_actors <= spec.max_actors, "1 <= min_actors <= max_actors, else there is no size to choose"),
        (
            0 < spec.low_load < spec.target_load < spec.high_load < spec.urgent_load,
            "0 < low_load < target_load < high_load < urgent_load, else a change undoes the last one",
        ),
        (spec.target_load <= 1, "target_load <= 1, else the learner starves by design"),
        (
            0 < spec.urgent_window_seconds <= spec.window_seconds,
            "0 < urgent_window_seconds <= window_seconds, else what is urgent takes longer",
        ),
        (spec.settle_seconds >= 0, "settle_seconds >= 0"),
        (spec.max_growth > 0, "max_growth > 0, else the fleet cannot grow"),
        (0 < spec.max_shrink <= 1, "0 < max_shrink <= 1, for it is a part of the fleet"),
        (spec.memory_seconds >= 0, "memory_seconds >= 0"),
    ]
    broken = [rule for holds, rule in rules if not holds]
    if broken:
        values = ", ".join(f"{name}={plain(value)}" for name, value in spec._asdict().items())
        raise UsageError(f"the controller needs {'; '.join(broken)}; it was given {values}")


def history_seconds(spec: ScalingSpec) -> float:
    """How many seconds of readings a decision needs."""
    return spec.settle_seconds + spec.window_seconds + MAX_GAP_SECONDS


def reconcile(observed: Observed, spec: ScalingSpec) -> Decision:
    """Decides how many actors there should be.

    - Always within `spec.min_actors` and `spec.max_actors`, unless nothing is known (no change) or the run is done (none).
    - At most one change per `settle_seconds` + a window, up by at most `max_growth`, down by at most `max_shrink` of the fleet.
    - No change while the fleet cannot be judged: no learner, a shard gone, the replay filling, actors starting or crashing.
    """
    now, memory = observed.readings[-1], observed.memory
    wanted = now.actors_wanted
    if now.state is None:
        return Decision(wanted, Reason.HOLD, now.obstacle, memory)
    if now.state is RunState.FINISHED or (now.state is RunState.COLLECTED and now.actors_live == 0):
        return Decision(0, Reason.DONE, "all steps of the run are collected", memory)
    if now.state is RunState.COLLECTED:
        return Decision(wanted, Reason.HOLD, "all steps are collected: actors write their last ones", memory)
    bounded = min(max(wanted, spec.min_actors), spec.max_actors)
    if bounded != wanted:
        return Decision(bounded, Reason.BOUNDS, f"the bounds are {spec.min_actors} to {spec.max_actors}", memory)
    if now.obstacle:
        return Decision(wanted, Reason.HOLD, now.obstacle, memory)
    return _judge(undisturbed(observed.readings, spec.settle_seconds), memory, spec, now)


def _judge(calm: Sequence[LoadReading], memory: Memory, spec: ScalingSpec, now: LoadReading) -> Decision:
    """The decision for a running fleet within its bounds, from undisturbed readings."""
    wanted = now.actors_wanted
    recent, full = measure(calm, spec.urgent_window_seconds), measure(calm, spec.window_seconds)
    if recent is None:
        reason = f"measuring: {span(calm):.0f} of {spec.urgent_window_seconds:.0f} s since the last change"
        return Decision(wanted, Reason.HOLD, reason, memory)
    memory = learn(memory, recent)
    recent_load = load(recent, memory)

    def decide(actors: int, why: Reason, reason: str) -> Decision:
        return Decision(actors, why, reason, memory, recent, recent_load)

    unsteady = _unsteady(calm, now.time - spec.urgent_window_seconds)
    if unsteady:
        return decide(wanted, Reason.HOLD, unsteady)
    if recent.updates == 0 and recent.learner_waiting < 0.5:
        return decide(wanted, Reason.HOLD, "the learner makes no updates, and does not wait for transitions")

    judged = recent if recent_load > spec.urgent_load else full
    if judged is None:
        return decide(wanted, Reason.BALANCED, f"the load is {recent_load:.2f}, measured for {span(calm):.0f} s so far")
    judged_load = load(judged, memory)
    if judged_load > spec.high_load and recent_load > spec.target_load:
        memory = memory._replace(starved_time=now.time, starved_actors=round(judged.actors))
        reason = f"the learner waited {judged.learner_waiting:.0%} of the last {judged.seconds:.0f} s for transitions"
        missing = wanted - now.actors_live
        if missing > LIVE_TOLERANCE * wanted:
            return decide(wanted, Reason.HOLD, f"{reason}, but {missing} of {wanted} actors have not joined yet")
        most = wanted + max(1, math.floor(wanted * spec.max_growth))
        target = min(_size(judged_load * judged.actors, spec), most)
        if wanted == spec.max_actors and target > wanted:
            return decide(wanted, Reason.LIMITED, f"{reason}, but {wanted} actors are the most allowed")
        if target > wanted:
            return decide(min(target, spec.max_actors), Reason.UP, reason)

    if judged_load < spec.low_load and recent_load < spec.target_load:
        demand = max(recent_load * recent.actors, judged_load * judged.actors)
        least = max(spec.min_actors, wanted - max(1, math.floor(wanted * spec.max_shrink)))
        target = max(_not_back(_size(demand, spec), memory, spec, now.time), least)
        if target < wanted:
            reason = f"actors were blocked by the learner {judged.actors_blocked:.0%} of the last {judged.seconds:.0f} s"
            return decide(target, Reason.DOWN, reason)
    return decide(wanted, Reason.BALANCED, f"the load is {judged_load:.2f}")


def undisturbed(readings: Sequence[LoadReading], settle_seconds: float) -> Sequence[LoadReading]:
    """The newest readings without a disturbance between them, except the first `settle_seconds`.

    A disturbance is: another number of wanted actors, another learner, another run state, an obstacle, a gap.
    """
    first = len(readings) - 1
    while first > 0 and _continues(readings[first - 1], readings[first]):
        first -= 1
    settled = readings[first].time + settle_seconds
    return [reading for reading in readings[first:] if reading.time >= settled]


def learn(memory: Memory, measured: Measured) -> Memory:
    """Learns the time that each side waits for other reasons than the other side.

    That is the actors' waiting while the queues are empty, and the learner's while they are full.
    """
    blocked, waiting = measured.actors_blocked, measured.learner_waiting
    open_for_inserts, open_for_samples = measured.queue_fill < QUEUES_EMPTY, measured.queue_fill > QUEUES_FULL
    return memory._replace(
        idle_blocked=min(MAX_IDLE, blocked if open_for_inserts else min(blocked, memory.idle_blocked)),
        idle_waiting=min(MAX_IDLE, waiting if open_for_samples else min(waiting, memory.idle_waiting)),
    )


def load(measured: Measured, memory: Memory) -> float:
    """The fleet's load: demand / actors. See this module's docstring."""
    held = max(0.0, (measured.actors_blocked - memory.idle_blocked) / (1.0 - memory.idle_blocked))
    # While queues are empty, all of the learner's waiting is for transitions.
    idle = 0.0 if measured.queue_fill < QUEUES_EMPTY else memory.idle_waiting
    lacking = max(0.0, (measured.learner_waiting - idle) / (1.0 - idle))
    return min(MAX_LOAD, (1.0 - held) / max(1e-9, 1.0 - lacking))


def _continues(before: LoadReading, after: LoadReading) -> bool:
    return (
        not before.obstacle
        and before.state is after.state
        and before.actors_wanted == after.actors_wanted
        and before.learner == after.learner
        and 0 <= after.time - before.time <= MAX_GAP_SECONDS
    )


def _size(demand: float, spec: ScalingSpec) -> int:
    """The fewest actors with a load of at most the target. The 1e-6 keeps rounding errors from costing an actor."""
    return max(1, math.ceil(demand / spec.target_load - 1e-6))


def _not_back(target: int, memory: Memory, spec: ScalingSpec, now: float) -> int:
    """`target`, but at least one more than the size at which the learner recently starved, unless it is clearly less."""
    recently = now - memory.starved_time <= spec.memory_seconds
    return max(target, memory.starved_actors + 1) if recently and target > CLEARLY_LESS * memory.starved_actors else target


def _unsteady(readings: Sequence[LoadReading], since: float) -> str:
    """The reason why the fleet's size is too unsteady for an estimate; "" if it is steady."""
    live = [reading.actors_live for reading in readings if reading.time >= since]
    low, high = min(live), max(live)
    return f"actors come and go: {low} to {high} of them were there" if high - low > LIVE_TOLERANCE * high else ""
