"""How many of the items sampled a while ago a shard has evicted since, reckoned from how much it has inserted. Pure."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np

READINGS = 128  # one a second: priorities that are older are rare


class Evictions:
    """Readings of one shard's insertions; a full one evicts its oldest item for each.

    Reverb ignores a priority for an item that is gone without a word, so what can be said is how many are gone on average: the
    insertions since they were sampled over the shard's size, if all ages are sampled alike. Where newer items are sampled more
    often, as new ones with the highest priority are, it is fewer. One thread may read while another one asks.
    """

    def __init__(self) -> None:
        self._readings: deque[tuple[float, int]] = deque(maxlen=READINGS)  # time in seconds, insertions so far
        self._size, self._capacity = 0, 0
        self._lock = threading.Lock()

    def read(self, time: float, inserted: int, size: int, capacity: int) -> None:
        """Takes a reading; insertions that fell are another process's count."""
        with self._lock:
            if self._readings and inserted < self._readings[-1][1]:
                self._readings.clear()
            self._readings.append((time, inserted))
            self._size, self._capacity = size, capacity

    def share_gone(self, since: float, now: float) -> float:
        """The part of the items sampled at `since` that is gone at `now`, between 0 and 1; 0 while the shard is not full."""
        with self._lock:
            readings, size, capacity = list(self._readings), self._size, self._capacity
        if len(readings) < 2 or size < capacity:
            return 0.0
        times, inserted = (np.array(column, np.float64) for column in zip(*readings, strict=True))
        pace = (inserted[-1] - inserted[-2]) / max(1e-9, times[-1] - times[-2])
        until_now = inserted[-1] + pace * max(0.0, now - times[-1])
        times, inserted = np.append(times, max(now, times[-1])), np.append(inserted, until_now)
        then, today = np.interp((since, now), times, inserted)
        return float(min(1.0, (today - then) / size))
