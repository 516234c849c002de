"""Checks twice a second whether a shard answers and its queue has room, which Reverb itself never reports."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

from sbrl.replay.backend import reverb
from sbrl.replay.segment_tables import LOG, QUEUE

logger = logging.getLogger(__name__)

PROBE_SECONDS = 0.5  # between two requests
ANSWER_SECONDS = 1  # time limit for an answer
AWAY_SECONDS = 1.5  # a shard that is silent for this long is away


class QueueProbe:
    """Whether one shard answers. A separate thread asks it, with a time limit on every request.

    That thread calls `on_up` at the first answer, and at the first answer after one or more requests without an answer.
    """

    def __init__(self, address: str, shard: int, on_up: Callable[[], None] = lambda: None) -> None:
        """Starts nothing; `start` does."""
        self.address, self.shard, self._on_up = address, shard, on_up
        self._stopped, self._answers = threading.Event(), threading.Event()
        self._last_answer = -math.inf
        self._room_since = self._empty_since = math.inf
        self.log_segments = 0  # in the last answer

    def start(self) -> None:
        self._last_answer = time.monotonic()  # the first answer has AWAY_SECONDS, too
        threading.Thread(target=self._run, name=f"shard-{self.shard}-probe", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    @property
    def is_away(self) -> bool:
        """Whether the shard has not answered for AWAY_SECONDS.

        A request must have gone unanswered. If this process was held up and sent none, nothing is known about the shard.
        """
        return not self._answers.is_set() and time.monotonic() - self._last_answer > AWAY_SECONDS

    @property
    def room_seconds(self) -> float:
        """Seconds for which every answer has reported room for another segment in the queue."""
        return 0.0 if self.is_away else max(0.0, time.monotonic() - self._room_since)

    @property
    def empty_seconds(self) -> float:
        """Seconds for which every answer has reported an empty queue."""
        return 0.0 if self.is_away else max(0.0, time.monotonic() - self._empty_since)

    def wait_answer(self, timeout_seconds: float) -> bool:
        """Waits until the newest request was answered; returns whether it was."""
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
                # After its server was gone, a client may wait out gRPC's back-off. A new client asks at once.
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
