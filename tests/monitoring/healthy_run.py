"""A run's readings from outside, for tests of the diagnosis: healthy except for a test's changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sbrl.coordination.fleet import RunState
from sbrl.monitor.observation import SERVING, MemberReading, Observation, Process, Settings
from sbrl.monitor.run_status import RunStatus, ShardStatus

SETTINGS = Settings(
    target_env_steps=1_000_000,
    min_replay_size=20_000,
    num_shards=2,
    batch_size=8,
    samples_per_insert=2.0,
    evaluation_interval_env_steps=10_000,
    ahead=64.0,
    num_actors=2,
)
GB = float(2**30)
SHARD = {
    "transitions": 50_000.0,
    "log_segments": 1_600.0,
    "log_capacity": 15_625.0,
    "queue_segments": 2.0,
    "queue_capacity": 8.0,
    "memory_used_bytes": 2 * GB,
    "memory_limit_bytes": 16 * GB,
    "bytes_per_transition": 8000.0,
    "checkpoint_age_seconds": 100.0,
    "checkpoint_interval_seconds": 600.0,
}
LEARNER = {"shards_ready": 2.0, "checkpoint_age_seconds": 60.0, "checkpoint_interval_seconds": 120.0}
READINGS = {
    "coordinator": MemberReading("coordinator", "coordinator", True, 0.5, SERVING, {"evaluation_env_steps": 95_000.0}),
    "replay-0": MemberReading("replay", "replay-0", True, 0.5, SERVING, SHARD, {"segments_served": 1.5}),
    "replay-1": MemberReading("replay", "replay-1", True, 0.5, SERVING, SHARD, {"segments_served": 1.5}),
    "learner": MemberReading("learner", "learner", True, 0.5, SERVING, LEARNER, {"blocked_seconds.replay": 0.1}),
    "actor-0": MemberReading("actor", "actor-0", True, 0.5, SERVING, {"weights_age_seconds": 3.0}),
    "actor-1": MemberReading("actor", "actor-1", True, 0.5, SERVING, {"weights_age_seconds": 3.0}),
    "evaluator": MemberReading("evaluator", "evaluator", True, 0.5, SERVING),
}
STATUS = RunStatus(
    state=RunState.RUNNING,
    env_steps=100_000,
    received=99_900,
    lost=0,
    in_flight=100,
    duplicates=0,
    updates=19_975,
    samples_trained=159_800,
    samples_due=159_800.0,
    samples_per_insert=2.0,
    updates_per_step=0.25,
    shards=(ShardStatus(50_000, 0, 0, True), ShardStatus(49_900, 0, 0, True)),
    learner_state="training",
    sampling="cached",
    memory_transitions=99_900,
)
RATES = {
    "actor.env_steps": 100.0,
    "actor.blocked_seconds.replay": 1.0,
    "learner.blocked_seconds.replay": 0.1,
}


def observed(
    readings: Mapping[str, Mapping[str, Any]] | None = None,
    totals: Mapping[str, float] | None = None,
    rates: Mapping[str, float] | None = None,
    status: Mapping[str, Any] | None = None,
    without: tuple[str, ...] = (),
    stopped: tuple[str, ...] = (),
    gone: tuple[str, ...] = (),
    local: bool = True,
    **others: Any,
) -> Observation:
    """A healthy run with the given changes.

    Args:
        readings: changed fields, by name; gauges and rates are added to the healthy ones.
        status: changed fields of the run's numbers.
        without: members that the coordinator has never heard of.
        stopped, gone: processes that are stopped or missing.
    """
    changed = []
    for name, reading in READINGS.items():
        fields = dict((readings or {}).get(name, {}))
        for field in ("gauges", "rates"):
            fields[field] = {**getattr(reading, field), **fields.get(field, {})}
        if name not in without:
            changed.append(reading._replace(**fields))
    processes = tuple(Process(name, 100 + k, name in stopped) for k, name in enumerate(READINGS) if name not in gone)
    run = Observation(
        seconds=5.0,
        settings=SETTINGS,
        run=STATUS._replace(**(status or {})),
        readings=tuple(changed),
        totals=dict(totals or {}),
        rates={**RATES, **(rates or {})},
        updates_per_second=25.0,
        weights_version=7,
        weights_age_seconds=3.0,
        processes=processes if local else None,
    )
    return run._replace(**others)
