"""How one replay is spread over shards: pure arithmetic, no I/O.

A shard is one Reverb server. Shards know nothing of each other: every global number of the config is divided so that the parts
add up to it exactly, and each shard's own limiter then holds its own ratio, so that the global ratio holds with any spread of
actors over shards.
"""

from __future__ import annotations

from typing import NamedTuple

from sbrl.config import Config


class ShardLimits(NamedTuple):
    """What one shard is given. The limiter's error is `inserts * samples_per_insert - samples` (Reverb, rate_limiters.py).

    The bounds are those of a shard that has neither inserted nor served anything; `limiter_bounds` has those of any other.

    With `offset = samples_per_insert * min_size`, the error is kept within [min_diff, max_diff]:

    - min_diff = offset - batch_size: the learner may be one batch ahead of the ratio, no more. In a run's last moments this
      is what lets it train the last whole batch.
    - max_diff = offset + error_buffer: inserts wait once the learner is this many samples behind.

    Reverb refuses a range narrower than 2 * max(1, samples_per_insert): both sides could then wait for each other for ever.
    """

    capacity: int
    min_size: int
    samples_per_insert: float
    min_diff: float
    max_diff: float


def share(total: int, num_shards: int, shard: int) -> int:
    """The part of `total` that `shard` (from 0) gets; the parts of all shards add up to `total`."""
    return total // num_shards + (shard < total % num_shards)


def error_buffer(config: Config) -> float:
    """Samples the learner may be behind on one shard before inserts wait: the config's, or room for 8 batches or 16 inserts.

    The default lets both sides run on while the other does something else for a moment (publish, reset an environment).
    """
    if config.replay.error_buffer is not None:
        return config.replay.error_buffer
    return max(8.0 * config.learner.batch_size, 16.0 * config.samples_per_insert)


def shard_limits(config: Config, shard: int) -> ShardLimits:
    """The limits of one shard (from 0) of `config.replay.num_shards`."""
    num_shards = config.replay.num_shards
    spi = config.samples_per_insert
    min_size = share(config.min_replay_size, num_shards, shard)
    offset = spi * min_size
    return ShardLimits(
        capacity=share(config.replay.capacity, num_shards, shard),
        min_size=min_size,
        samples_per_insert=spi,
        min_diff=offset - config.learner.batch_size,
        max_diff=offset + error_buffer(config),
    )


def limiter_bounds(limits: ShardLimits, inserted: int, sampled: int, owed: float) -> tuple[float, float]:
    """(min_diff, max_diff) for a limiter that has counted so much and is to admit what the run's books say, not its own count.

    Args:
        inserted, sampled: what the limiter has counted.
        owed: samples that are due for what the shard has ever inserted and that no learner was trained on. A limiter that
            keeps count of all of it by itself has `inserted * samples_per_insert - sampled - offset`.
    """
    zero = inserted * limits.samples_per_insert - sampled - owed
    offset = limits.samples_per_insert * limits.min_size
    return zero + limits.min_diff - offset, zero + limits.max_diff - offset


def limiter_state(limits: ShardLimits, size: int, inserted: int, sampled: int) -> str:
    """What a shard's limiter does now: filling, open, waiting_for_actors or waiting_for_learner.

    Args:
        size: items in the table.
        inserted, sampled: what the limiter has admitted, over restores.
    """
    if size < limits.min_size:
        return "filling"
    samples, inserts = limiter_room(limits, inserted, sampled)
    if samples < 1:  # they are admitted one by one
        return "waiting_for_actors"
    return "open" if inserts >= 1 else "waiting_for_learner"


def limiter_room(limits: ShardLimits, inserted: int, sampled: int) -> tuple[float, float]:
    """(samples, insertions) that a warm shard's limiter still admits before it holds that side back for the other."""
    error = inserted * limits.samples_per_insert - sampled
    return max(0.0, error - limits.min_diff), max(0.0, limits.max_diff - error) / limits.samples_per_insert


def episode_shard(actor: int, env: int, episode: int, num_shards: int) -> int:
    """The shard an episode goes to: round robin over episodes, every environment starting at another shard."""
    return (actor + env + episode) % num_shards
