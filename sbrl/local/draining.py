"""Whether processes that were told to end still get on with it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

PROGRESS_BYTES = 1 << 20
PROGRESS_SECONDS = 5.0


class Draining:
    """Processes that may be writing a last checkpoint: as long as they move bytes to or from files, or the disk keeps them."""

    def __init__(self, process_ids: Iterable[int], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._moved = {process_id: _bytes_moved(process_id) for process_id in process_ids}
        self._got_on = -math.inf

    def is_getting_on(self) -> bool:
        """Whether one of them has got on within PROGRESS_SECONDS; to be asked several times in such a while."""
        for process_id, before in self._moved.items():
            moved = _bytes_moved(process_id)
            if moved - before >= PROGRESS_BYTES or _waits_for_disk(process_id):
                self._moved[process_id] = moved
                self._got_on = self._clock()
        return self._clock() - self._got_on < PROGRESS_SECONDS


def _bytes_moved(process_id: int) -> int:
    """Read from and written to files so far: Reverb's connections count in neither."""
    try:
        counters = psutil.Process(process_id).io_counters()
    except (psutil.Error, OSError):  # it has ended, or the system does not tell
        return 0
    return int(counters.read_chars + counters.write_chars)


def _waits_for_disk(process_id: int) -> bool:
    """Whether a thread is in a call that the disk has not answered: fsync of gigabytes moves no byte of the process's."""
    try:
        stats = [(task / "stat").read_bytes() for task in Path(f"/proc/{process_id}/task").iterdir()]
    except OSError:  # it has ended, or one of its threads has meanwhile
        return False
    return any(stat.rpartition(b")")[2].split()[:1] == [b"D"] for stat in stats)
