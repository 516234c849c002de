"""Asks a shard twice a second whether it answers and its queue has room, which Reverb itself never says."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

from sbrl.replay.backend import reverb
from sbrl.replay.segment_tables import LOG, QUEUE

logger = logging.getLogger(__name__)

PROBE_SECONDS = 0.5  # between two questions
ANSWER_SECONDS = 1  # for one
AWAY_SECONDS = 1.5  # a shard that is silent for so long is away


class QueueProbe:
    """Whether one shard answers, found out on a thread of its own with a time limit on every question.

    `on_up` is called, on that thread, at the first answer and at the first after one or more questions that had none.
    """

    def __init__(self, address: str, shard: int, on_up: Callable[[], None] = lambda: None) -> None:
        """Starts nothing; `start` does."""
        self.address, self.shard, self._on_up = address, shard, on_up
        self._stopped, self._answers = threading.Event(), threading.Event()
        self._last_answer = -math.inf
        self._room_since = self._empty_since = math.inf
        self.log_segments = 0  # at the last look

    def start(self) -> None:
        self._last_answer = time.monotonic()  # it has as long for the first one
        threading.Thread(target=self._run, name=f"shard-{self.shard}-probe", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    @property
    def is_away(self) -> bool:
        """Whether the shard has not answered for AWAY_SECONDS.

        A question must have had no answer: that none was asked, for this process was held up, says nothing of the shard.
        """
        return not self._answers.is_set() and time.monotonic() - self._last_answer > AWAY_SECONDS

    @property
    def room_seconds(self) -> float:
        """Seconds for which the queue has had room for another segment at every look."""
        return 0.0 if self.is_away else max(0.0, time.monotonic() - self._room_since)

    @property
    def empty_seconds(self) -> float:
        """Seconds for which the queue was empty at every look."""
        return 0.0 if self.is_away else max(0.0, time.monotonic() - self._empty_since)

    def wait_answer(self, timeout_seconds: float) -> bool:
        """Waits until the newest question is one that was answered; returns whether it is."""
        return self._answers.wait(timeout_seconds)

    def _run(self) -> None:
        client = reverb.Client(self.address)
        while not self._stopped.is_set():
            try:
                tables = client.server_info(timeout=ANSWER_SECONDS)
                queue, self.log_segments = tables[QUEUE], tables[LOG].current_size
            except (RuntimeError, KeyError, reverb.errors.DeadlineExceededError) as error:
                if self._answers.is_set():
                    logger.warning("replay shard %d at %s does not answer: %s", self.shard, self.address, error)
                    self._answers.clear()
                self._room_since = self._empty_since = math.inf
                # A client of a server that was gone may wait out gRPC's back-off: a new one asks at once.
                client = reverb.Client(self.address)
            else:
                now = self._last_answer = time.monotonic()
                has_room = queue.current_size < queue.max_size
                self._room_since = min(self._room_since, now) if has_room else math.inf
                self._empty_since = min(self._empty_since, now) if not queue.current_size else math.inf
                if not self._answers.is_set():
                    logger.info("replay shard %d at %s answers", self.shard, self.address)
                    self._answers.set()
                    self._on_up()
            self._stopped.wait(PROBE_SECONDS)
