"""Closes and flushes Reverb's writers, for both kinds of writers to shards."""

from __future__ import annotations

import contextlib
from typing import Any

from sbrl.replay.backend import reverb


def close_writer(writer: Any) -> None:
    """Closes a stream at once, even with items in flight.

    Reverb's close alone can hang for ever: before its worker waits for the chunks of the next item, it does not check whether
    it has been closed meanwhile. A flush completes all chunks, so that the worker has nothing to wait for.
    """
    # Items that do not get through within the time limit, or cannot, are dropped, as the caller wants.
    with contextlib.suppress(reverb.errors.DeadlineExceededError, RuntimeError):
        writer.flush(timeout_ms=1)
    writer.close()


def flush_writer(writer: Any, max_unconfirmed: int, timeout_seconds: float) -> bool:
    """Waits until at most `max_unconfirmed` items are unconfirmed.

    Returns False if the time limit passes first: the shard's queue is full, or it is gone. Nothing is lost: call again.
    """
    try:
        writer.flush(block_until_num_items=max_unconfirmed, timeout_ms=max(1, int(timeout_seconds * 1000)))
    except reverb.errors.DeadlineExceededError:
        return False
    return True
