"""Ends a shard's process whose main loop hangs, where no time limit can be given to what it waits for."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable

from sbrl.runtime.lifecycle import START_AGAIN

logger = logging.getLogger(__name__)


class Watchdog:
    """A daemon thread that ends the process when one pass of the loop takes too long.

    Reverb's checkpoint has no time limit, and one that hangs holds the main thread inside native code, where no exception
    reaches it; the thread that sends heartbeats goes on meanwhile, so that nobody else would notice.
    """

    def __init__(
        self,
        limit_seconds: float,
        end: Callable[[int], object] = os._exit,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            limit_seconds: that one pass may take.
            end: Called once with the exit code that has the process started again; by default it does not return.
        """
        self._limit, self._end, self._clock = limit_seconds, end, clock
        self._watched = threading.get_ident()
        self._deadline = clock() + limit_seconds
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begins to watch the thread that made this; its first pass begins now."""
        self.pass_begins()
        self._thread.start()

    def pass_begins(self) -> None:
        """Says that the pass before is done."""
        self._deadline = self._clock() + self._limit

    def _watch(self) -> None:
        never = threading.Event()
        while (left := self._deadline - self._clock()) > 0:
            never.wait(left)  # a pass that begins meanwhile only moves the deadline: it is seen at the end of this wait
        stack = traceback.extract_stack(sys._current_frames()[self._watched])
        logger.error(
            "hangs: one pass of the main loop has taken more than %g s, in %s (%s:%d): ending, to be started again",
            self._limit,
            stack[-1].name,
            stack[-1].filename,
            stack[-1].lineno or 0,
        )
        self._end(START_AGAIN)
