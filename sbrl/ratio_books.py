"""The run's books as the coordinator's status has them: what is due of each shard, trained, and admitted. Pure."""

from __future__ import annotations

import math

from sbrl.v1.fleet_pb2 import GetStatusResponse

INSERTED, TRAINED, LOST = "transitions_inserted", "samples_trained", "samples_lost"
DUE = "replay.samples_due"
LOST_WITH_ACTORS = "transitions_dropped.member_lost"


def by_shard(counter: str, shard: int) -> str:
    """The name of the part of a counter that is one shard's."""
    return f"{counter}.{shard}"


def inserted_after_all(collected: float, confirmed: float, dropped: float, lost: float, inserted: float) -> float:
    """Items booked as dropped with killed actors (`lost` of `dropped`) that shards have inserted all the same.

    Nobody knows at the kill which of an actor's items under way got there; the shards' own count (`inserted`) tells afterwards,
    for what is beyond the confirmed ones and those under way now can be no others.
    """
    under_way = collected - confirmed - dropped
    return min(lost, max(0.0, inserted - confirmed - under_way))


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
