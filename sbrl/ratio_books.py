"""The run's books as the coordinator's status has them: what is due of each shard, trained, and admitted. Pure."""

from __future__ import annotations

import math

from sbrl.v1.fleet_pb2 import GetStatusResponse

INSERTED, TRAINED, LOST = "transitions_inserted", "samples_trained", "samples_lost"
DUE = "replay.samples_due"


def by_shard(counter: str, shard: int) -> str:
    """The name of the part of a counter that is one shard's."""
    return f"{counter}.{shard}"


def samples_due(status: GetStatusResponse) -> float:
    """Samples that all insertions after warm-up are worth, each at the ratio that held when it was made."""
    return float(status.totals.get(DUE, 0.0))


def limiters_astray(status: GetStatusResponse) -> tuple[float, int]:
    """(samples by which live shards' limiters are off what is due and not trained, shards that have said what theirs count)."""
    off, known_shards = 0.0, 0
    for member in status.members:
        due = status.totals.get(by_shard(DUE, member.index), math.nan)
        if member.role == "replay" and member.alive:
            known = member.gauges.get("samples_owed", math.nan)
            owed = due - status.totals.get(by_shard(f"learner.{TRAINED}", member.index), 0.0)
            if math.isfinite(owed - known):
                off += abs(owed - known)
                known_shards += 1
    return off, known_shards
