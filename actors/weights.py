"""Follows the newest weights in the background, so that acting never waits for the network."""

from __future__ import annotations

import logging
import threading
import time
from typing import NamedTuple

from sbrl.coordination.weights import WeightsClient
from sbrl.errors import RunError
from sbrl.networks.serialization import Weights, decode
from sbrl.rpc import channels

CALL_BEGINS_SECONDS = 1.0

logger = logging.getLogger(__name__)


class NewWeights(NamedTuple):
    version: int
    tensors: Weights


class WeightsFollower:
    """Asks for newer weights every `interval_seconds` on a daemon thread, until it is closed."""

    def __init__(self, client: WeightsClient, interval_seconds: float) -> None:
        """Args: client: closed with the follower."""
        self._client, self._interval = client, interval_seconds
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="weights", daemon=True)
        self._lock = threading.Lock()
        self._new: NewWeights | None = None
        self._version = 0
        self._published_time: float | None = None  # of the newest known weights, by the monotonic clock
        self.lag_versions = 0  # versions between the known weights and the newest ones, at the last request

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stops asking, and closes the connection, which ends a call in flight."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(CALL_BEGINS_SECONDS)  # so that it starts no call on a closed connection
        self._client.close()

    def take(self) -> NewWeights | None:
        """The newest weights, once; None if none are newer than the last ones taken."""
        with self._lock:
            new, self._new = self._new, None
            return new

    @property
    def age_seconds(self) -> float:
        """Seconds since the newest known weights were published; 0 before the first."""
        return 0.0 if self._published_time is None else time.monotonic() - self._published_time

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                fetched = self._client.fetch(newer_than_version=self._version)
                self.lag_versions = fetched.version - self._version if fetched is not None and self._version else 0
                if fetched is not None:
                    self._version = fetched.version  # even if it cannot be used: a second fetch would bring the same bytes
                    tensors = decode(fetched.data)
                    with self._lock:
                        self._new = NewWeights(fetched.version, tensors)
                    self._published_time = fetched.published_time
            except channels.CoordinatorUnavailable as error:
                logger.debug("no weights: %s", error)  # debug only: heartbeats already warn of the outage
            except RunError as error:  # the next weights may be usable; meanwhile the age of the weights shows the problem
                logger.error("weights version %d: %s", self._version, error)
            self._closing.wait(self._interval)
