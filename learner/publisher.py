"""Publishes weights in the background, so that the update loop never waits for the coordinator."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
from torch import Tensor

from learner.records import HostCopy
from sbrl.coordination.weights import StaleTermError, WeightsClient
from sbrl.errors import RunError
from sbrl.networks.serialization import all_finite, encode
from sbrl.rpc import channels

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0


class _Snapshot(NamedTuple):
    weights: Mapping[str, HostCopy]
    not_finite: HostCopy
    updates: int

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], not_finite: Tensor, updates: int) -> Self:
        """Starts a copy to the host; on CUDA the copy is still under way when this returns."""
        copies = {name: HostCopy(tensor.detach().clone()) for name, tensor in weights.items()}
        return cls(copies, HostCopy(not_finite.clone()), updates)

    def encode(self) -> bytes | None:
        """Waits for the copies; None if the weights or their flag are not finite."""
        weights = {name: torch.from_numpy(copy.numpy()) for name, copy in self.weights.items()}
        return encode(weights) if all_finite([*weights.values(), torch.from_numpy(self.not_finite.numpy())]) else None


class Publisher:
    """Sends one snapshot at a time. The next one is taken once that one is delivered, so it is as new as possible."""

    def __init__(self, client: WeightsClient, term: int) -> None:
        self._client, self._term = client, term
        self._changed = threading.Condition()  # guards the fields below
        self._next: _Snapshot | None = None
        self._closing = False
        self._fenced: StaleTermError | None = None
        self._is_finite = True
        self.published = 0
        self.version = 0
        self.published_time = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_idle(self) -> bool:
        """Whether the last snapshot was delivered, refused or given up."""
        with self._changed:
            return self._next is None or self._fenced is not None

    @property
    def is_finite(self) -> bool:
        """False once a snapshot was not finite. That one and all later ones are not sent."""
        with self._changed:
            return self._is_finite

    def publish(self, weights: Mapping[str, Tensor], not_finite: Tensor, updates: int) -> None:
        """Copies `weights` and returns; another thread checks, encodes and sends them.

        Args:
            not_finite: float32[], NaN if a loss or a batch that the weights were trained with was not finite, else 0.

        Raises:
            StaleTermError: another learner has taken over; this one must stop.
        """
        with self._changed:
            if self._fenced is not None:
                raise self._fenced
            if not self._is_finite:
                return
        snapshot = _Snapshot.of(weights, not_finite, updates)
        with self._changed:
            self._next = snapshot
            self._changed.notify_all()

    def wait_idle(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds until the last snapshot is delivered; returns whether it was."""
        with self._changed:
            idle = self._changed.wait_for(lambda: self._next is None or self._fenced is not None, timeout)
            return idle and self._fenced is None and self._is_finite

    def close(self, timeout: float) -> bool:
        """Like `wait_idle`, then stops the thread."""
        sent = self.wait_idle(timeout)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout)
        return sent

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._next is not None or self._closing)
                snapshot = self._next
            if snapshot is None or self._closing:
                return
            data = snapshot.encode()
            if data is None:
                with self._changed:
                    self._is_finite = False
                    self._next = None
                    self._changed.notify_all()
                return
            if not self._send(data, snapshot.updates):
                return
            with self._changed:
                if self._next is snapshot:
                    self._next = None
                self._changed.notify_all()

    def _send(self, data: bytes, updates: int) -> bool:
        """Sends until it is delivered or refused; returns whether to go on."""
        while True:
            try:
                version = self._client.publish(data, self._term, updates)
            except StaleTermError as error:
                with self._changed:
                    self._fenced = error
                    self._changed.notify_all()
                return False
            except channels.CoordinatorUnavailable as error:
                logger.debug("weights not published: %s", error)  # debug only: heartbeats already warn of the outage
                with self._changed:
                    if self._changed.wait_for(lambda: self._closing, RETRY_SECONDS):
                        return False
            except RunError:
                logger.exception("weights refused; the next publication is tried all the same")
                return True
            else:
                self.published += 1
                self.version, self.published_time = version, time.monotonic()
                return True
