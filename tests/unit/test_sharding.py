"""Parts of a whole that add up to it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sbrl.sharding import share


@given(st.integers(0, 10**9), st.integers(1, 64))
def test_shares_add_up_to_the_whole_and_differ_by_one_at_most(total: int, num_shards: int) -> None:
    shares = [share(total, num_shards, shard) for shard in range(num_shards)]
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1
