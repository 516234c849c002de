"""Whether the learner holds the replay itself (cached) or samples it from Reverb (remote). Pure."""

from __future__ import annotations

import math
from typing import NamedTuple

from sbrl.config import Config
from sbrl.errors import UsageError
from sbrl.replay.segments import SegmentShape

# The replay memory's share of the bytes that the process may use. The rest is for the network, its gradients, and the other
# processes of a local run. At least OTHER_BYTES stay free, most of it for libraries alone, however small the limit is.
MEMORY_SHARE = 0.7
OTHER_BYTES = 600_000_000

_SMALL_BYTES = 4 * 4  # per row: action, reward, discount, weights_version
_ANCHOR_BYTES = 8  # per anchor: priority
_SLOT_BYTES = 8 + 8  # per segment: sum of priorities, generation


def slots_for(shape: SegmentShape, capacity: int) -> int:
    """Number of segments that hold `capacity` anchors."""
    return math.ceil(capacity / shape.steps)


def memory_bytes(shape: SegmentShape, capacity: int) -> int:
    """Bytes that a full replay memory of this capacity takes on its device."""
    return slots_for(shape, capacity) * (shape.rows * frame_bytes(shape) + small_bytes(shape))


def frame_bytes(shape: SegmentShape) -> int:
    """Bytes of one frame."""
    return math.prod(shape.frame_shape) * shape.frame_dtype.itemsize


def small_bytes(shape: SegmentShape) -> int:
    """Bytes of one segment in the memory, without its frames."""
    return shape.rows * _SMALL_BYTES + shape.steps * _ANCHOR_BYTES + _SLOT_BYTES


class Choice(NamedTuple):
    """The choice, and its reason for the log."""

    sampling: str  # cached or remote
    reason: str


def choose_sampling(config: Config, needed_bytes: int, limit_bytes: int, where: str) -> Choice:
    """Decides replay.sampling.

    Args:
        needed_bytes: size of a full memory of replay.capacity.
        limit_bytes: bytes that the process may use.
        where: the name of that limit, for the message.

    Raises:
        UsageError: replay.sampling=cached, and the memory does not fit.
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
