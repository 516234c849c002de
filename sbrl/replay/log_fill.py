"""Reads a shard's log once, newest first, after a learner has lost its memory.

A log item's priority is its age, the run's environment steps when it was written, and the log's sampler takes the item with
the highest one. Each item that is read is pushed below all that is unread:

    priority = age - fill * 2**36       fill: the number of the fill that read it last, 0 for an item that none has

so the item that comes next is always the newest unread one, and the fill is complete when one comes back that it has read
itself. Fills are numbered upwards. What is written meanwhile comes first, for it is newer. A fill that is cut short because the
memory is full gives what it has read its priorities back, so that the next one finds the newest first again; after one that was
killed the next finds first what that one had left. Numbers are exact: ages below 2**36, fills below 2**16.
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
_GIVE_BACK = 1000  # priorities sent together


def age_of(priority: float) -> float:
    """The age of an item, whichever fill has read it."""
    return priority % BELOW


def fill_of(priority: float) -> int:
    """The fill that read an item last, 0 for none."""
    return -math.floor(priority / BELOW)


class LogFill:
    """One fill of one shard. Another thread, with another client, may go on with it where one has lost its connection."""

    def __init__(self, fill: int, shape: SegmentShape, sink: Callable[[Segment], bool]) -> None:
        """
        Args:
            fill: its number, above those of all fills before.
            sink: takes a segment; returns whether the fill is to go on.

        Raises:
            ValueError: the number is out of range.
        """
        if not 0 < fill < MAX_FILL:
            raise ValueError(f"a fill's number must be from 1 to {MAX_FILL - 1}, not {fill}")
        self._fill, self._shape, self._sink = fill, shape, sink
        self._before: dict[int, float] = {}  # key of each item read: the priority that it had
        self._is_cut_short = False
        self.refused = 0  # items of another shape or an impossible stream

    @property
    def read(self) -> int:
        """Items read so far."""
        return len(self._before)

    def go_on(self, client: Any, is_cancelled: Callable[[], bool]) -> bool:
        """Reads until all is read or the sink has enough, and returns True; False once it is cancelled.

        A server that is gone holds it up for as long as that lasts: it is for a thread that can be left behind.

        Args:
            client: a reverb.Client.

        Raises:
            RuntimeError, reverb.errors.DeadlineExceededError: the server could not do what it was asked; call again.
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
            if key in self._before:  # written once more, by a resend
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
