"""What all writers to shards share."""

from __future__ import annotations

import contextlib
from typing import Any

from sbrl.replay.backend import reverb


class BlockedError(Exception):
    """The shard did not confirm items within the time limit: its queue is full, or it is gone."""


def close_writer(writer: Any) -> None:
    """Closes a stream, whatever is on its way, at once.

    Reverb's close alone can hang for ever: its worker, about to wait until the chunks of the next item are complete, does not
    look whether it has been closed meanwhile. A flush completes all chunks, so that it has nothing to wait for.
    """
    # What does not get through within the time, or cannot at all, is what the caller wants dropped.
    with contextlib.suppress(reverb.errors.DeadlineExceededError, RuntimeError):
        writer.flush(timeout_ms=1)
    writer.close()


def flush_writer(writer: Any, max_unconfirmed: int, timeout_seconds: float, where: str) -> None:
    """Waits until at most so many items are unconfirmed.

    Args:
        where: the shard, for the message.

    Raises:
        BlockedError: not within the time limit. Nothing is lost: call again.
    """
    try:
        writer.flush(block_until_num_items=max_unconfirmed, timeout_ms=max(1, int(timeout_seconds * 1000)))
    except reverb.errors.DeadlineExceededError as error:
        raise BlockedError(where) from error
