"""Ends a shard's process if its main loop hangs in a call that takes no time limit."""

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

    Reverb's checkpoint has no time limit. If it hangs, the main thread is inside native code, where no exception reaches it.
    The heartbeat thread continues meanwhile, so nobody else would notice.
    """

    def __init__(
        self,
        limit_seconds: float,
        end: Callable[[int], object] = os._exit,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            limit_seconds: the longest time for one pass.
            end: Called once with the exit code that makes the process start again; the default does not return.
        """
        self._limit, self._end, self._clock = limit_seconds, end, clock
        self._watched = threading.get_ident()
        self._deadline = clock() + limit_seconds
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begins to watch the thread that constructed this. Its first pass begins now."""
        self.pass_begins()
        self._thread.start()

    def pass_begins(self) -> None:
        """Marks the end of the previous pass."""
        self._deadline = self._clock() + self._limit

    def _watch(self) -> None:
        never = threading.Event()
        while (left := self._deadline - self._clock()) > 0:
            never.wait(left)  # a new pass only moves the deadline; the loop sees that at the end of this wait
        stack = traceback.extract_stack(sys._current_frames()[self._watched])
        logger.error(
            "hangs: one pass of the main loop has taken more than %g s, in %s (%s:%d): ending, to be started again",
            self._limit,
            stack[-1].name,
            stack[-1].filename,
            stack[-1].lineno or 0,
        )
        self._end(START_AGAIN)
