"""Reads a shard's log once, newest first, after a learner has lost its memory.

A log item's priority is its age: the run's environment steps when it was written. The log's sampler takes the item with the
highest priority. Reading an item pushes it below all unread items:

    priority = age - fill * 2**36       fill: the number of the fill that read it last, 0 if none has

So the next item is always the newest unread one, and the fill is complete when an item comes back that it has already read.
Fills are numbered upwards. Items that are written during a fill come first, because they are newer. A fill that is cut short
because the memory is full restores the priorities of the items it has read, so that the next fill starts with the newest again.
After a killed fill, the next one starts with the items that the killed one had not read. Numbers are exact: ages are below
2**36, fills below 2**16.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from sbrl.replay.segment_tables import LOG, segment_of
from sbrl.replay.segments import Segment, SegmentShape

BELOW = 2.0**36
MAX_FILL = 2**16
INFO_SECONDS = 5
_GIVE_BACK = 1000  # priorities per call


def age_of(priority: float) -> float:
    """The age of an item, whichever fill read it last."""
    return priority % BELOW


def fill_of(priority: float) -> int:
    """The number of the fill that read an item last; 0 if none has."""
    return -math.floor(priority / BELOW)


class LogFill:
    """One fill of one shard. If a thread loses its connection, another one can continue the fill with a new client."""

    def __init__(self, fill: int, shape: SegmentShape, sink: Callable[[Segment], bool]) -> None:
        """
        Args:
            fill: its number, above the numbers of all earlier fills.
            sink: takes a segment; returns whether the fill should continue.

        Raises:
            ValueError: the number is out of range.
        """
        if not 0 < fill < MAX_FILL:
            raise ValueError(f"a fill's number must be from 1 to {MAX_FILL - 1}, not {fill}")
        self._fill, self._shape, self._sink = fill, shape, sink
        self._before: dict[int, float] = {}  # key of each item read -> its priority before
        self._is_cut_short = False
        self.refused = 0  # items with another shape or an impossible stream

    @property
    def read(self) -> int:
        """Items read so far."""
        return len(self._before)

    def go_on(self, client: Any, is_cancelled: Callable[[], bool]) -> bool:
        """Reads until everything is read or the sink has enough, then returns True; returns False once it is cancelled.

        It blocks as long as the server is gone, so call it on a thread that can be abandoned.

        Args:
            client: a reverb.Client.

        Raises:
            RuntimeError, reverb.errors.DeadlineExceededError: a request to the server failed; call again.
        """
        if not self._is_cut_short and not client.server_info(timeout=INFO_SECONDS)[LOG].current_size:
            return True
        while not self._is_cut_short:
            sample = next(client.sample(LOG, num_samples=1, emit_timesteps=False))
            if is_cancelled():
                return False
            key, priority = sample.info.key, sample.info.priority
            if fill_of(priority) >= self._fill:
                return True
            client.mutate_priorities(LOG, {key: age_of(priority) - self._fill * BELOW})
            if key in self._before:  # a resend wrote it again
                continue
            self._before[key] = priority
            try:
                segment = segment_of(sample.data, self._shape)
            except ValueError:
                self.refused += 1
                continue
            self._is_cut_short = not self._sink(segment)
        keys = list(self._before)
        for first in range(0, len(keys), _GIVE_BACK):
            client.mutate_priorities(LOG, {key: self._before[key] for key in keys[first : first + _GIVE_BACK]})
        return True
