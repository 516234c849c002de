"""Dividing a replay over shards: the parts add up, and no shard's limiter can deadlock."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbrl.config import load
from sbrl.sharding import episode_shard, shard_limits, share


@given(total=st.integers(0, 10**7), num_shards=st.integers(1, 16))
def test_shares_add_up(total: int, num_shards: int) -> None:
    parts = [share(total, num_shards, shard) for shard in range(num_shards)]
    assert sum(parts) == total
    assert max(parts) - min(parts) <= 1


@pytest.mark.parametrize("batch_size", [1, 8, 32, 512])
@pytest.mark.parametrize("updates_per_step", [1 / 64, 0.25, 1, 64])
@pytest.mark.parametrize("num_shards", [1, 2, 16])
def test_limits_admit_fill_then_sample(batch_size: int, updates_per_step: float, num_shards: int) -> None:
    config = load(
        overrides=[
            f"learner.batch_size={batch_size}",
            f"learner.updates_per_step={updates_per_step}",
            f"replay.num_shards={num_shards}",
        ]
    )
    for shard in range(num_shards):
        limits = shard_limits(config, shard)
        spi = limits.samples_per_insert
        assert spi == batch_size * updates_per_step
        # Reverb's own two conditions, and ours: the learner must get a whole batch once the replay is filled.
        assert limits.max_diff - limits.min_diff >= 2 * max(1.0, spi)
        assert limits.min_diff <= spi * limits.min_size <= limits.max_diff
        assert limits.max_diff - limits.min_diff >= batch_size


def test_shards_take_turns() -> None:
    assert [episode_shard(actor=0, env=1, episode=k, num_shards=3) for k in range(4)] == [1, 2, 0, 1]
    assert {episode_shard(actor=2, env=env, episode=0, num_shards=4) for env in range(4)} == {0, 1, 2, 3}


@settings(max_examples=200)
@given(
    num_shards=st.integers(1, 16),
    min_size=st.integers(16, 100_000),
    spare=st.integers(0, 100),
)
def test_no_shard_is_too_small_for_its_own_minimum(num_shards: int, min_size: int, spare: int) -> None:
    """Reverb counts inserts less deletes against the minimum: a shard that evicted below it would never be sampled again."""
    config = load(
        overrides=[
            *(f"run.env_steps={min_size + 1}", f"replay.num_shards={num_shards}"),
            *(f"replay.min_size={min_size}", f"replay.capacity={min_size + spare}"),
        ]
    )
    for shard in range(num_shards):
        limits = shard_limits(config, shard)
        assert limits.capacity >= limits.min_size
