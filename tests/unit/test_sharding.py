"""The division of replay and environments over shards: parts add up, and no shard has more than its share."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from actors.segment_stream import preferred_shard
from sbrl.replay.shard import share


@given(total=st.integers(0, 10**7), num_shards=st.integers(1, 16))
def test_shares_add_up(total: int, num_shards: int) -> None:
    parts = [share(total, num_shards, shard) for shard in range(num_shards)]
    assert sum(parts) == total
    assert max(parts) - min(parts) <= 1


@given(num_actors=st.integers(1, 12), num_envs=st.integers(1, 12), num_shards=st.integers(1, 16))
def test_environments_are_spread_evenly_over_the_shards(num_actors: int, num_envs: int, num_shards: int) -> None:
    """Actors' indices count from 0 without gaps, so the shards' numbers differ by at most one."""
    writers = Counter(
        preferred_shard(actor, env, num_envs, num_shards) for actor in range(num_actors) for env in range(num_envs)
    )
    numbers = [writers[shard] for shard in range(num_shards)]
    assert max(numbers) - min(numbers) <= 1
