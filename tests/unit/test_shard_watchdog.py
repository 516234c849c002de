"""A shard's main loop that hangs ends the process; one that is only slow does not."""

from __future__ import annotations

import queue
import threading

import pytest

from sbrl.runtime.lifecycle import START_AGAIN
from services.replay.watchdog import Watchdog

LIMIT = 0.01
PATIENCE = 20.0


class Clock:
    """Stands still until it is set; counts the watchdog's looks."""

    def __init__(self) -> None:
        self.now = 0.0
        self._looks = threading.Semaphore(0)

    def __call__(self) -> float:
        now = self.now
        self._looks.release()
        return now

    def wait_looked_at(self) -> None:
        """Waits for two looks, because the first one may have begun before the time was set."""
        while self._looks.acquire(blocking=False):
            pass
        for _ in range(3):
            assert self._looks.acquire(timeout=PATIENCE)


def test_a_pass_that_hangs_ends_the_process_and_says_where(caplog: pytest.LogCaptureFixture) -> None:
    ended: queue.Queue[int] = queue.Queue()
    Watchdog(LIMIT, end=ended.put).start()
    assert ended.get(timeout=PATIENCE) == START_AGAIN
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert f"more than {LIMIT:g} s" in record.getMessage()
    assert "threading.py" in record.getMessage()  # where this test waits


def test_a_pass_in_time_starts_the_limit_anew() -> None:
    ended: queue.Queue[int] = queue.Queue()
    clock = Clock()
    watchdog = Watchdog(LIMIT, end=ended.put, clock=clock)
    watchdog.start()
    clock.wait_looked_at()
    clock.now = 0.8 * LIMIT
    watchdog.pass_begins()
    clock.now = 1.6 * LIMIT
    clock.wait_looked_at()
    assert ended.empty()
    clock.now = 2.0 * LIMIT
    assert ended.get(timeout=PATIENCE) == START_AGAIN
