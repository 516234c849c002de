"""The run's books: how many samples are due for what each shard has inserted, at the ratio that held at the time. Pure.

A shard's limiter keeps the ratio by its own count, which a crash sets back to its last checkpoint, and the learner's count of
what its network was trained on is set back to its own. The books go on: a limiter that starts again is set to what they say is
owed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sbrl.config import Config
from sbrl.ratio_books import INSERTED, LOST, TRAINED
from sbrl.sharding import shard_limits

Totals = Mapping[tuple[str, str], float]

# Under a lease: what its process had under way when the lease before ended, and will count as done under this one.
CARRIED = "under_way_before"


class Segment(NamedTuple):
    """From `start` insertions on a shard's insertions are worth `samples_per_insert` samples each."""

    shard: int
    start: int
    samples_per_insert: float


class Plan(NamedTuple):
    """What the coordinator needs of the config beside run.env_steps."""

    samples_per_insert: float = 1.0
    min_sizes: tuple[int, ...] = ()  # of each shard
    generation_seconds: float = float("inf")  # between two generations
    keep_generations: int = 1

    @classmethod
    def of(cls, config: Config) -> Plan:
        shards = range(config.replay.num_shards)
        return cls(
            config.samples_per_insert,
            tuple(shard_limits(config, shard).min_size for shard in shards),
            config.replay.checkpoint_interval_seconds,
            config.replay.keep_checkpoints,
        )


NO_SHARDS = Plan()  # there is nothing to keep books of


def next_segment(segments: Sequence[Segment], shard: int, inserted: float, plan: Plan) -> Segment | None:
    """The segment that begins now, if the plan's ratio is not the last one's: what is inserted already is worth what it was."""
    mine = [segment for segment in segments if segment.shard == shard]
    if not mine:
        return Segment(shard, plan.min_sizes[shard], plan.samples_per_insert)
    if mine[-1].samples_per_insert == plan.samples_per_insert:
        return None
    return Segment(shard, max(mine[-1].start, int(inserted)), plan.samples_per_insert)


def samples_due(segments: Sequence[Segment], shard: int, inserted: float) -> float:
    """Samples that `inserted` transitions of a shard are worth; negative while it fills."""
    mine = [segment for segment in segments if segment.shard == shard]
    ends = [segment.start for segment in mine[1:]] + [inserted]
    return sum((end - segment.start) * segment.samples_per_insert for segment, end in zip(mine, ends, strict=True))


def trained(totals: Totals, shard: int) -> float:
    """Samples of a shard that the network as it is was trained on."""
    return totals.get(("learner", f"{TRAINED}.{shard}"), 0.0) - totals.get(("learner", f"{LOST}.{shard}"), 0.0)


def inserted(totals: Totals, shard: int) -> float:
    """Transitions inserted in a shard since the run began, those that it lost included."""
    return totals.get(("replay", f"{INSERTED}.{shard}"), 0.0)


def samples_owed(segments: Sequence[Segment], totals: Totals, shard: int) -> float:
    """What is due of a shard and not trained."""
    return samples_due(segments, shard, inserted(totals, shard)) - trained(totals, shard)


def unreported(totals: Totals, shard: int) -> float:
    """Insertions that actors have had confirmed and that the shard, killed, had no time to report."""
    confirmed = totals.get(("actor", f"{INSERTED}.{shard}"), 0.0)
    return max(0.0, confirmed - inserted(totals, shard))


def under_way(role: str, counters: Mapping[str, float]) -> float:
    """What a member had taken and neither done nor given up, as it last reported under a lease and those of its before."""
    names = {
        "actor": ("transitions_collected", INSERTED, "transitions_dropped"),
        "learner": ("samples_served", TRAINED, "samples_discarded"),
    }
    if role not in names:
        return 0.0
    taken, done, dropped = (counters.get(name, 0.0) for name in names[role])
    return max(0.0, counters.get(CARRIED, 0.0) + taken - done - dropped)


def of_the_network(totals: Totals) -> dict[tuple[str, str], float]:
    """The totals, with the learner's of the network as it is: what was lost with a killed learner counts as discarded.

    served = trained + discarded + in flight, either way.
    """
    result = {(role, name): value for (role, name), value in totals.items() if name != CARRIED}

    def move(source: str, target: str | None, lost: str) -> None:
        amount = min(result.get(("learner", lost), 0.0), result.get(("learner", source), 0.0))
        if amount:
            result["learner", source] = result.get(("learner", source), 0.0) - amount
            if target is not None:
                result["learner", target] = result.get(("learner", target), 0.0) + amount

    move("updates", None, "updates_lost")
    move(TRAINED, "samples_discarded", LOST)
    for role, name in totals:
        if role == "learner" and name.startswith(f"{TRAINED}."):
            move(name, None, LOST + name.removeprefix(TRAINED))
    return result
