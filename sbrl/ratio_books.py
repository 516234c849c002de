"""The run's books as the coordinator's status has them: what is due of each shard, trained, and admitted. Pure."""

from __future__ import annotations

import math

from sbrl.v1.fleet_pb2 import GetStatusResponse

INSERTED, TRAINED, LOST = "transitions_inserted", "samples_trained", "samples_lost"
DUE = "replay.samples_due"
SHORTFALL = 0.01  # of the samples due: the ratio is promised to so much
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


def falls_short(due: float, trained: float, batch_size: int) -> bool:
    """Whether a run that ends so has not kept its ratio; a batch is less than can be told."""
    return due - trained > max(batch_size, SHORTFALL * due)


def missing_samples(due: float, trained: float) -> str:
    """What is to be said of such a run."""
    return (
        f"all env steps are collected, but only {trained:,.0f} of the {due:,.0f} samples that they are worth were trained on, "
        f"and the shards hold nothing more to train on: their data or the learner's checkpoints are lost; put back "
        f"checkpoints/, or go on with a larger run.env_steps"
    )


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
