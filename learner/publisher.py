"""Publishes weights in the background, so that the update loop never waits for the coordinator."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from sbrl import rpc
from sbrl.errors import RunError
from sbrl.networks.serialization import encode
from sbrl.weights import StaleEpochError, WeightsClient

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0


class _Snapshot(NamedTuple):
    data: bytes
    updates: int


class Publisher:
    """Sends the newest snapshot; one not sent yet is replaced by a newer one, never queued behind it."""

    def __init__(self, client: WeightsClient, epoch: int) -> None:
        self._client, self._epoch = client, epoch
        self._changed = threading.Condition()  # guards what is below
        self._next: _Snapshot | None = None
        self._closing = False
        self._fenced: StaleEpochError | None = None
        self.published = 0
        self.version = 0
        self.published_time = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def publish(self, weights: Mapping[str, Tensor], updates: int) -> None:
        """Takes a copy of `weights` and returns; they are sent as soon as the one before is.

        Raises:
            StaleEpochError: another learner has taken over; this one must stop.
        """
        snapshot = _Snapshot(encode(weights), updates)
        with self._changed:
            if self._fenced is not None:
                raise self._fenced
            self._next = snapshot
            self._changed.notify_all()

    def close(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds for the last snapshot to be published and stops; returns whether it was."""
        with self._changed:
            sent = self._changed.wait_for(lambda: self._next is None or self._fenced is not None, timeout)
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout)
        return sent and self._fenced is None

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._next is not None or self._closing)
                snapshot = self._next
            if snapshot is None or self._closing:
                return
            try:
                version = self._client.publish(snapshot.data, self._epoch, snapshot.updates)
            except StaleEpochError as error:
                with self._changed:
                    self._fenced = error
                    self._changed.notify_all()
                return
            except rpc.CoordinatorUnavailable as error:
                logger.debug("weights not published: %s", error)  # the fleet member's beats warn of the outage
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, RETRY_SECONDS)
            except RunError:
                logger.exception("weights refused; the next publication is tried all the same")
                self._done(snapshot)
            else:
                self.published += 1
                self.version, self.published_time = version, time.monotonic()
                self._done(snapshot)

    def _done(self, snapshot: _Snapshot) -> None:
        with self._changed:
            if self._next is snapshot:
                self._next = None
            self._changed.notify_all()
