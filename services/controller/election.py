"""Leader election among controllers: the holder of a Lease acts, as in client-go's leader election."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from sbrl.cluster.kube import ApiConflict, ApiUnavailable, Cluster, LeaseRecord
from sbrl.errors import RunError

LEASE_SECONDS = 30
# A holder trusts its lease for this fraction of its duration. So if it cannot renew, it stops before others may take over.
TRUSTED_PART = 2 / 3

_log = logging.getLogger(__name__)


class Election(Protocol):
    """Decides whether this process is the one that acts."""

    @property
    def is_leader(self) -> bool: ...

    def campaign(self) -> None:
        """Takes or renews the leadership if it can. Call it every few seconds."""
        ...

    def resign(self) -> None:
        """Lets another controller take over at once."""
        ...


class Unopposed:
    """The election of a single controller: it always leads."""

    is_leader = True

    def campaign(self) -> None:
        return None

    def resign(self) -> None:
        return None


class LeaseElection:
    """Leadership by a Lease that its holder renews.

    Clocks of different machines are never compared: a lease ends when *this* process has seen it unchanged for its duration.
    """

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        identity: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        seconds: int = LEASE_SECONDS,
    ) -> None:
        """
        Args:
            identity: the name of this process, unique among the controllers.
        """
        self._cluster, self._name, self._identity = cluster, name, identity
        self._clock, self._seconds = clock, seconds
        self._seen: LeaseRecord | None = None  # another holder's lease, when it was first seen in this state
        self._seen_time = 0.0
        self._trusted_until = -1.0
        self._leading = False

    @property
    def is_leader(self) -> bool:
        """Whether this process holds the lease and no other process can have taken it."""
        return self._leading and self._clock() < self._trusted_until

    def campaign(self) -> None:
        """Takes the lease if it is free, renews it if it is held.

        Raises:
            RunError: the API server refuses it. It is no error if the server does not answer: a held lease is trusted for a
                while.
        """
        start = self._clock()
        try:
            current = self._cluster.lease(self._name)
            won = self._may_take(current, start) and self._write(current)
        except ApiUnavailable as error:
            _log.warning("cannot renew the lease %s: %s", self._name, error)
            return
        if won != self._leading:
            _log.info("%s the lease %s", "holding" if won else "standing by: another controller holds", self._name)
        self._leading = won
        if won:
            self._trusted_until = start + TRUSTED_PART * self._seconds

    def resign(self) -> None:
        """Gives up the lease if this process holds it."""
        leading, self._leading = self._leading, False
        if not leading:
            return
        try:
            current = self._cluster.lease(self._name)
            if current is not None and current.holder == self._identity:
                free = current._replace(holder="", duration_seconds=1, renew_time=datetime.now(UTC))
                self._cluster.write_lease(self._name, free)
        except RunError as error:
            _log.warning("did not give up the lease %s, which ends by itself in %d s: %s", self._name, self._seconds, error)

    def _may_take(self, current: LeaseRecord | None, now: float) -> bool:
        if current is None or current.holder in ("", self._identity):
            return True
        if self._seen is None or (current.holder, current.renew_time) != (self._seen.holder, self._seen.renew_time):
            self._seen, self._seen_time = current, now
        return now - self._seen_time >= current.duration_seconds

    def _write(self, current: LeaseRecord | None) -> bool:
        """Writes this process into the lease; False if another process was quicker."""
        now = datetime.now(UTC)
        held = current is not None and current.holder == self._identity
        record = LeaseRecord(
            holder=self._identity,
            duration_seconds=self._seconds,
            acquire_time=current.acquire_time if current is not None and held else now,
            renew_time=now,
            transitions=0 if current is None else current.transitions + (not held),
            resource_version="" if current is None else current.resource_version,
        )
        try:
            self._cluster.write_lease(self._name, record)
        except ApiConflict:
            return False
        return True
