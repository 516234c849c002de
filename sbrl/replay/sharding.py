"""How one replay is spread over shards: pure arithmetic, no I/O."""

from __future__ import annotations


def share(total: int, num_shards: int, shard: int) -> int:
    """The share of `total` that `shard` (from 0) gets. The shares of all shards add up to `total`."""
    return total // num_shards + (shard < total % num_shards)
