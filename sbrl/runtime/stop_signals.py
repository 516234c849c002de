"""Signals that ask a process to stop, and the time that they leave a run's launcher to do so."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

STOP_SECONDS = 25.0  # from the first request until all of a launcher's processes are gone; half a minute with its own end
HURRY_SECONDS = 6.0  # from the second request
TOGETHER_SECONDS = 1.0  # signals this close are one request: a closing terminal, or a job manager, sends several


def catch_stop_signals(received: Callable[[signal.Signals], None]) -> None:
    """From now on calls `received`, on a separate thread, for each SIGTERM, SIGINT and SIGHUP.

    If SIGHUP was ignored from the start, it stays ignored: nohup uses this to let a process outlive its terminal.
    """
    # The interpreter writes a signal's number to the pipe at once, even while the main thread is inside a long native call. A
    # thread reads it from there, because Event.set in a handler can deadlock with the Event.wait that it interrupts.
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    for number in numbers:
        signal.signal(number, _ignore)

    def hand_on() -> None:
        while number := os.read(read_end, 1):
            if number[0] in numbers:
                received(signal.Signals(number[0]))

    threading.Thread(target=hand_on, name="signals", daemon=True).start()


def _ignore(number: int, frame: FrameType | None) -> None:
    """Only prevents the default action. The wake-up pipe carries the signal."""


class StopRequest:
    """Whether a run must stop, and the time left for that. The second request shortens the time, the third ends it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._requested = threading.Event()
        self._requests, self._last, self._deadline = 0, -math.inf, math.inf

    def ask(self) -> int:
        """Asks to stop. Returns the number of requests so far. One that closely follows another is part of it."""
        now = self._clock()
        if now - self._last >= TOGETHER_SECONDS:
            self._last = now
            self._requests += 1
            self._shorten(now + {1: STOP_SECONDS, 2: HURRY_SECONDS}.get(self._requests, 0.0))
            self._requested.set()
        return self._requests

    def begin(self) -> None:
        """Starts the time for a stop that nobody asked for."""
        self._shorten(self._clock() + STOP_SECONDS)

    @property
    def is_requested(self) -> bool:
        return self._requested.is_set()

    @property
    def is_urgent(self) -> bool:
        """Whether there was a second request."""
        return self._requests > 1

    @property
    def seconds_left(self) -> float:
        """Seconds left for the stop; negative when it is over, infinite before it begins."""
        return self._deadline - self._clock()

    def wait(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds for the first request. Returns whether there was one."""
        return self._requested.wait(timeout)

    def _shorten(self, deadline: float) -> None:
        self._deadline = min(self._deadline, deadline)
