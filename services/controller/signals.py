"""What the coordinator's answers say of the fleet, as readings for `reconcile`. Pure, but for the history it keeps."""

from __future__ import annotations

import math
from collections import deque

from sbrl.config import Config
from sbrl.fleet import RunState
from sbrl.fleet_watch import run_state, total
from sbrl.progress import members
from sbrl.sharding import shard_limits
from sbrl.v1.fleet_pb2 import GetStatusResponse, Member
from services.controller.reconcile import Reading


def no_answer(time: float, actors_wanted: int, problem: str) -> Reading:
    """The reading when the coordinator cannot be asked."""
    return Reading(time, None, problem, actors_wanted, actors_live=0)


def read(status: GetStatusResponse, config: Config, time: float, actors_wanted: int) -> Reading:
    """One look at the fleet.

    Args:
        time: seconds of the monotonic clock.
        actors_wanted: the Deployment's replicas.
    """
    learners = [member.incarnation for member in _live(status, "learner")]
    shards = _live(status, "replay")
    return Reading(
        time=time,
        state=run_state(status),
        obstacle=_obstacle(status, config),
        actors_wanted=actors_wanted,
        actors_live=len(_live(status, "actor")),
        learner=max(learners, default=0),
        updates=total(status, "learner.updates"),
        learner_waited_seconds=total(status, "learner.blocked_seconds"),
        actors_blocked_seconds=total(status, "actor.blocked_seconds"),
        limiter_fill=sum(limiter_fill(shard, config) for shard in shards) / max(1, len(shards)),
    )


def limiter_fill(shard: Member, config: Config) -> float:
    """Where a shard's limiter stands between its ends: 0, samples wait for inserts; 1, inserts wait for samples.

    One insert is many samples: a limiter stands half an insert from an end, on average, when it holds one side there.
    """
    limits = shard_limits(config, shard.index)
    inserts, samples = shard.gauges.get("limiter_inserts", 0.0), shard.gauges.get("limiter_samples", 0.0)
    above = inserts * limits.samples_per_insert - samples - limits.min_diff - limits.samples_per_insert / 2
    fill = above / (limits.max_diff - limits.min_diff - limits.samples_per_insert)
    return min(1.0, max(0.0, fill)) if math.isfinite(fill) else 0.5


class History:
    """The readings of the last `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._readings: deque[Reading] = deque()

    def add(self, reading: Reading) -> tuple[Reading, ...]:
        """Keeps a reading, and returns all that are kept, oldest first."""
        self._readings.append(reading)
        while reading.time - self._readings[0].time > self._seconds:
            self._readings.popleft()
        return tuple(self._readings)


def _obstacle(status: GetStatusResponse, config: Config) -> str:
    """Why the fleet cannot be judged by what it does now; "" if it can."""
    if run_state(status) is not RunState.RUNNING:
        return "the run is not running"
    inserted = total(status, "replay.transitions_inserted")
    if inserted < config.min_replay_size:
        return f"the replay is filling: {inserted:,.0f} of {config.min_replay_size:,} transitions"
    learners, shards = _live(status, "learner"), _live(status, "replay")
    if len(shards) < config.replay.num_shards:
        return f"{len(shards)} of {config.replay.num_shards} replay shards are there"
    for shard in shards:
        held = shard.gauges.get("limiter_inserts", 0.0)
        least = shard_limits(config, shard.index).min_size
        if held < least:
            return f"{shard.name} is filling: {held:,.0f} of {least:,} transitions"
    if not learners:
        return "no learner is there"
    ready = learners[0].gauges.get("shards_ready", 0.0)
    if ready < config.replay.num_shards:
        return f"the learner reaches {ready:.0f} of {config.replay.num_shards} replay shards"
    return "" if _live(status, "actor") else "no actor is there"


def _live(status: GetStatusResponse, role: str) -> list[Member]:
    return [member for member in members(status, role) if member.alive]
