"""Sinks for the batches of a `ShardSampler` in benchmarks and tests."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from sbrl.replay.items import Items


def into(served: queue.Queue[Items]) -> Callable[[Items, threading.Event], bool]:
    """A sink that waits for room in the queue until it is cancelled."""

    def put(items: Items, cancelled: threading.Event) -> bool:
        while not cancelled.is_set():
            try:
                served.put(items, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    return put
