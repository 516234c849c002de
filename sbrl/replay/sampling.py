"""Whether the learner holds the replay itself (cached) or samples it from Reverb (remote). Pure."""

from __future__ import annotations

import math
from typing import NamedTuple

from sbrl.config import Config
from sbrl.errors import UsageError
from sbrl.replay.segments import SegmentShape

# Of what the process may use, the share of the memory; the rest is for the network, its gradients, and a local run's other
# processes. Libraries alone take most of OTHER_BYTES, however little there is.
MEMORY_SHARE = 0.7
OTHER_BYTES = 600_000_000

_SMALL_BYTES = 4 * 4  # of a row: action, reward, discount, weights_version
_ANCHOR_BYTES = 8  # priority
_SLOT_BYTES = 8 + 8  # sum of priorities, generation


def slots_for(shape: SegmentShape, capacity: int) -> int:
    """The segments that hold `capacity` anchors."""
    return math.ceil(capacity / shape.steps)


def memory_bytes(shape: SegmentShape, capacity: int) -> int:
    """What a replay memory of this capacity takes on its device when it is full."""
    return slots_for(shape, capacity) * (shape.rows * frame_bytes(shape) + small_bytes(shape))


def frame_bytes(shape: SegmentShape) -> int:
    """Of one frame."""
    return math.prod(shape.frame_shape) * shape.frame_dtype.itemsize


def small_bytes(shape: SegmentShape) -> int:
    """Of one segment in the memory, without its frames."""
    return shape.rows * _SMALL_BYTES + shape.steps * _ANCHOR_BYTES + _SLOT_BYTES


class Choice(NamedTuple):
    """What was chosen, and why, for the log."""

    sampling: str  # cached or remote
    reason: str


def choose_sampling(config: Config, needed_bytes: int, limit_bytes: int, where: str) -> Choice:
    """Decides replay.sampling.

    Args:
        needed_bytes: what a memory of replay.capacity takes when it is full.
        limit_bytes: what the process may use.
        where: what limits it, for the message.

    Raises:
        UsageError: replay.sampling=cached, and it does not fit.
    """
    asked, usable = config.replay.sampling, max(0, min(int(MEMORY_SHARE * limit_bytes), limit_bytes - OTHER_BYTES))
    numbers = (
        f"a replay memory of {config.replay.capacity:,} transitions takes {needed_bytes:,} bytes when full, and "
        f"{usable:,} may be used ({MEMORY_SHARE:.0%} of {where}, and all but {OTHER_BYTES // 10**6} MB)"
    )
    if asked == "remote":
        return Choice("remote", "replay.sampling=remote")
    if needed_bytes <= usable:
        return Choice("cached", numbers)
    if asked == "cached":
        raise UsageError(
            f"replay.sampling is cached, but {numbers}: lower replay.capacity, give the learner more memory, or set "
            f"replay.sampling=remote"
        )
    return Choice("remote", numbers)
