"""Whether processes that were told to end still make progress."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

PROGRESS_BYTES = 1 << 20
PROGRESS_SECONDS = 5.0


class Draining:
    """Processes that may be writing a last checkpoint.

    They make progress as long as they move bytes to or from files, or wait for the disk.
    """

    def __init__(self, process_ids: Iterable[int], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._moved = {process_id: _bytes_moved(process_id) for process_id in process_ids}
        self._got_on = -math.inf

    def is_getting_on(self) -> bool:
        """Whether one of them has made progress within PROGRESS_SECONDS. Call this several times in such an interval."""
        for process_id, before in self._moved.items():
            moved = _bytes_moved(process_id)
            if moved - before >= PROGRESS_BYTES or _waits_for_disk(process_id):
                self._moved[process_id] = moved
                self._got_on = self._clock()
        return self._clock() - self._got_on < PROGRESS_SECONDS


def _bytes_moved(process_id: int) -> int:
    """Bytes read from and written to files so far. Reverb's connections do not count."""
    try:
        counters = psutil.Process(process_id).io_counters()
    except (psutil.Error, OSError):  # it has ended, or the system does not report them
        return 0
    return int(counters.read_chars + counters.write_chars)


def _waits_for_disk(process_id: int) -> bool:
    """Whether a thread waits for the disk: an fsync of gigabytes moves none of the process's bytes."""
    try:
        stats = [(task / "stat").read_bytes() for task in Path(f"/proc/{process_id}/task").iterdir()]
    except OSError:  # it, or one of its threads, has ended meanwhile
        return False
    return any(stat.rpartition(b")")[2].split()[:1] == [b"D"] for stat in stats)
