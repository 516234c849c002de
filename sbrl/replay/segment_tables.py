"""A shard's two tables over the same segments: `queue` serves each segment once, `log` keeps the newest ones.

If the learner samples from Reverb, there is a third table of single transitions, and segments have no frames.

An item of either table is one row of Reverb: a whole segment. Neighbours share nothing, so the overlap is stored twice. But a
segment in one row is compressed as a whole, which makes it smaller than rows shared in chunks: on Pong the shard needs 620
bytes per transition, against 1,070 in chunks of 8 rows. A writer also calls Reverb only once in 32 steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbrl.replay.backend import TensorSpec, reverb
from sbrl.replay.items import TABLE, ItemShape
from sbrl.replay.sampling import slots_for
from sbrl.replay.segments import Segment, SegmentShape

QUEUE, LOG = "queue", "log"


def log_segments(capacity: int, shape: SegmentShape) -> int:
    """Number of segments in a shard's log. Args: capacity: the shard's share of the replay, in transitions."""
    return max(1, slots_for(shape, capacity))


def make_tables(shape: SegmentShape, queue_segments: int, log_segments: int) -> list[reverb.Table]:
    """Both tables, empty.

    The log's priorities are ages, and its sampler takes the highest one: see `sbrl.replay.log_fill`.

    Args:
        queue_segments: size of the queue; when it is full, writers wait for the learner.
        log_segments: size of the log; when it is full, each new segment replaces the oldest.
    """
    signature = {name: TensorSpec((1, *dims), dtype, name) for name, (dims, dtype) in shape.columns().items()}
    queue = reverb.Table.queue(QUEUE, queue_segments, signature=signature)
    log = reverb.Table(
        name=LOG,
        sampler=reverb.selectors.MaxHeap(),
        remover=reverb.selectors.Fifo(),
        max_size=log_segments,
        rate_limiter=reverb.rate_limiters.MinSize(1),
        signature=signature,
    )
    return [queue, log]


def transitions_table(shape: ItemShape, capacity: int, prioritized: bool) -> reverb.Table:
    """The table that learners sample from, empty. The priorities already include the exponent.

    Args:
        capacity: size in transitions; when the table is full, each new transition replaces the oldest.
    """
    signature = {name: TensorSpec(dims, dtype, name) for name, (dims, dtype) in shape.columns().items()}
    return reverb.Table(
        name=TABLE,
        sampler=reverb.selectors.Prioritized(1.0) if prioritized else reverb.selectors.Uniform(),
        remover=reverb.selectors.Fifo(),
        max_size=capacity,
        rate_limiter=reverb.rate_limiters.MinSize(1),
        signature=signature,
    )


def segment_of(data: Sequence[NDArray[Any]], shape: SegmentShape) -> Segment:
    """The segment in a sampled item.

    Args:
        data: the item's columns, in the order of their names.

    Raises:
        ValueError: it has another shape (for example, it was written under another config), or its stream is impossible.
    """
    columns = dict(zip(sorted(shape.columns()), data, strict=True))
    for name, (dims, dtype) in shape.columns().items():
        if columns[name].shape != (1, *dims) or columns[name].dtype != dtype:
            found = f"{columns[name].dtype}{list(columns[name].shape[1:])}"
            raise ValueError(f"column {name} is {found}, not {np.dtype(dtype)}{list(dims)}")
    segment = Segment(**{name: column[0] for name, column in columns.items()})
    if not 0 <= segment.of.start <= segment.first:
        raise ValueError(f"its first step is {segment.first}, and its stream starts at {segment.of.start}")
    return segment
