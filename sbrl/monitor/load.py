"""The load of the fleet: who waits for whom, from the coordinator's answers. Pure, except for its history."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from sbrl.config import Config
from sbrl.coordination.fleet import RunState
from sbrl.coordination.fleet_watch import run_state, total
from sbrl.monitor.progress import members
from sbrl.monitor.run_status import RunStatus
from sbrl.v1.fleet_pb2 import GetStatusResponse, Member


class LoadReading(NamedTuple):
    """One reading of the fleet. Counters cover all processes of the run so far."""

    time: float  # seconds of the monotonic clock
    state: RunState | None  # None: the coordinator did not answer
    obstacle: str  # why this reading cannot show how many actors are needed; "" if it can
    actors_wanted: int  # the Deployment's replicas
    actors_live: int  # members whose lease holds
    learner: int = 0  # the live learner's incarnation
    updates: float = 0.0
    learner_waited_seconds: float = 0.0  # for batches from replay
    actors_blocked_seconds: float = 0.0  # on replay, all actors together
    queue_fill: float = 0.0  # of the shards' queues, on average; 0: the learner takes everything at once; 1: actors wait


class Measured(NamedTuple):
    """A window of readings."""

    seconds: float
    actors: float  # live, on average
    learner_waiting: float  # share of the time
    actors_blocked: float  # share of the live actors' time
    queue_fill: float  # on average
    updates: float


def no_answer(time: float, actors_wanted: int, problem: str) -> LoadReading:
    """The reading if the coordinator does not answer."""
    return LoadReading(time, None, problem, actors_wanted, actors_live=0)


def read(status: GetStatusResponse, config: Config, time: float, actors_wanted: int) -> LoadReading:
    """One reading of the fleet.

    Args:
        time: seconds of the monotonic clock.
        actors_wanted: the Deployment's replicas.
    """
    run = RunStatus.of(status, config.min_replay_size)
    learners = [member.incarnation for member in _live(status, "learner")]
    shards = _live(status, "replay")
    return LoadReading(
        time=time,
        state=run_state(status),
        obstacle=_obstacle(status, run, config),
        actors_wanted=actors_wanted,
        actors_live=len(_live(status, "actor")),
        learner=max(learners, default=0),
        updates=float(run.updates),
        learner_waited_seconds=total(status, "learner.blocked_seconds.replay"),
        actors_blocked_seconds=total(status, "actor.blocked_seconds.replay"),
        queue_fill=sum(map(queue_fill, shards)) / max(1, len(shards)),
    )


def queue_fill(shard: Member) -> float:
    """How full a shard's queue is. 0: the learner takes everything at once; 1: actors wait for it; 0.5: unknown."""
    waiting, capacity = (shard.gauges.get(f"queue_{name}", 0.0) for name in ("segments", "capacity"))
    return min(1.0, max(0.0, waiting / capacity)) if capacity > 0 and math.isfinite(waiting) else 0.5


class History:
    """The readings of the last `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._readings: deque[LoadReading] = deque()

    def add(self, reading: LoadReading) -> tuple[LoadReading, ...]:
        """Adds a reading and returns all kept readings, oldest first."""
        self._readings.append(reading)
        while reading.time - self._readings[0].time > self._seconds:
            self._readings.popleft()
        return tuple(self._readings)


def _obstacle(status: GetStatusResponse, run: RunStatus, config: Config) -> str:
    """Why the fleet's current state does not show how many actors it needs; "" if it does."""
    if run.state is not RunState.RUNNING:
        return "the run is not running"
    if not _live(status, "learner"):
        return "no learner is there"
    if run.received < config.min_replay_size:
        return f"the run is warming up: {run.received:,} of {config.min_replay_size:,} transitions"
    if run.learner_state == "filling":
        return "the learner fills its memory"
    shards = _live(status, "replay")
    if len(shards) < config.replay.num_shards:
        return f"{len(shards)} of {config.replay.num_shards} replay shards are there"
    ready = sum(shard.answers for shard in run.shards)
    if ready < config.replay.num_shards:
        return f"the learner reaches {ready} of {config.replay.num_shards} replay shards"
    return "" if _live(status, "actor") else "no actor is there"


def _live(status: GetStatusResponse, role: str) -> list[Member]:
    return [member for member in members(status, role) if member.alive]


def measure(readings: Sequence[LoadReading], window_seconds: float) -> Measured | None:
    """Averages over the last `window_seconds` of `readings`; None if they do not reach back that far."""
    if not readings or span(readings) < window_seconds:
        return None
    end = readings[-1]
    first = max(k for k, reading in enumerate(readings) if reading.time <= end.time - window_seconds)
    window = readings[first:]
    start, seconds = window[0], end.time - window[0].time
    actor_seconds = sum(before.actors_live * (after.time - before.time) for before, after in pairwise(window))
    if seconds <= 0 or actor_seconds <= 0:
        return None
    return Measured(
        seconds=seconds,
        actors=actor_seconds / seconds,
        learner_waiting=_share(end.learner_waited_seconds - start.learner_waited_seconds, seconds),
        actors_blocked=_share(end.actors_blocked_seconds - start.actors_blocked_seconds, actor_seconds),
        queue_fill=sum(reading.queue_fill for reading in window) / len(window),
        updates=end.updates - start.updates,
    )


def span(readings: Sequence[LoadReading]) -> float:
    """Seconds from the first reading to the last."""
    return readings[-1].time - readings[0].time if readings else 0.0


def _share(part: float, whole: float) -> float:
    return min(1.0, max(0.0, part / whole))
