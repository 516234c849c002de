"""Asks a shard once a second whether it answers: Reverb itself never says that a server is gone."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any

from sbrl.replay.backend import reverb
from sbrl.replay.evictions import Evictions
from sbrl.replay.items import TABLE

logger = logging.getLogger(__name__)

PROBE_SECONDS = 1


def admits_one(table: Any) -> bool:
    """Whether a table's limiter would let one more item in. Args: table: Reverb's TableInfo."""
    limiter = table.rate_limiter_info
    error = (limiter.insert_stats.completed + 1) * limiter.samples_per_insert - limiter.sample_stats.completed
    return bool(table.current_size < limiter.min_size_to_sample or error <= limiter.max_diff)


class ShardProbe:
    """Whether one shard answers, found out on a thread of its own with a time limit on every question.

    `on_up` is called, on that thread, at the first answer and at the first after each silence; `on_down` when a silence begins.
    """

    def __init__(
        self,
        address: str,
        shard: int,
        on_up: Callable[[], None] = lambda: None,
        on_down: Callable[[], None] = lambda: None,
    ) -> None:
        self.address, self.shard = address, shard
        self._on_up, self._on_down = on_up, on_down
        self.evictions = Evictions()
        self._stopped = threading.Event()
        self._up = threading.Event()
        self._down_since = time.monotonic()
        self._admits_since = math.inf

    def start(self) -> None:
        threading.Thread(target=self._run, name=f"shard-{self.shard}-probe", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    @property
    def is_up(self) -> bool:
        return self._up.is_set()

    @property
    def down_seconds(self) -> float:
        """Seconds since the shard last answered, 0 while it answers."""
        return 0.0 if self.is_up else time.monotonic() - self._down_since

    @property
    def admitting_seconds(self) -> float:
        """Seconds for which the shard has answered, and its limiter has had room for one more insertion at every look."""
        return max(0.0, time.monotonic() - self._admits_since) if self.is_up else 0.0

    def wait_up(self, timeout_seconds: float) -> bool:
        return self._up.wait(timeout_seconds)

    def _run(self) -> None:
        client = reverb.Client(self.address)
        while not self._stopped.is_set():
            try:
                table = client.server_info(timeout=PROBE_SECONDS)[TABLE]
                inserted = table.rate_limiter_info.insert_stats.completed
                self.evictions.read(time.monotonic(), inserted, table.current_size, table.max_size)
                self._admits_since = min(self._admits_since, time.monotonic()) if admits_one(table) else math.inf
            except (RuntimeError, reverb.errors.DeadlineExceededError) as error:
                if self.is_up:
                    logger.warning("replay shard %d at %s does not answer: %s", self.shard, self.address, error)
                    self._down_since, self._admits_since = time.monotonic(), math.inf
                    self._up.clear()
                    self._on_down()
                # A client of a server that was gone may wait out gRPC's back-off: a new one asks at once.
                client = reverb.Client(self.address)
            else:
                if not self.is_up:
                    logger.info("replay shard %d at %s answers", self.shard, self.address)
                    self._up.set()
                    self._on_up()
            self._stopped.wait(PROBE_SECONDS)
