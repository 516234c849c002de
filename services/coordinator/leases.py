"""The fleet's leases: who holds which index, their last reports, and which have ended. Not thread-safe."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc

from sbrl.coordination.fleet import STEPS_COUNTER
from sbrl.v1 import fleet_pb2
from services.coordinator.allowance import reserved
from services.coordinator.refusal import Refused
from services.coordinator.store import LeaseRecord, Store

# A member that has been gone for this long is no longer listed. Its counts stay in the totals for ever.
FORGET_SECONDS = 3600.0


@dataclass
class Lease:
    """One member's place, which it keeps as long as it sends heartbeats."""

    record: LeaseRecord  # as it was when the lease was given
    seen: float  # time of its last heartbeat, by the clock
    alive: bool
    counters: dict[str, float]
    step_limit: int
    gauges: dict[str, float] = field(default_factory=dict)

    @property
    def role(self) -> str:
        return self.record.role

    @property
    def env_steps(self) -> int:
        return int(self.counters.get(STEPS_COUNTER, 0))


class Leases:
    """The newest lease of each member, in memory and in the store."""

    def __init__(self, store: Store, lease_seconds: float, clock: Callable[[], float]) -> None:
        """Restores the stored leases. Time in which there was no coordinator does not count, and those that had not ended
        restart, since no heartbeat could arrive meanwhile."""
        self._store, self._lease_seconds, self._clock = store, lease_seconds, clock
        now, wall_now = clock(), time.time()
        self._next_sweep = now
        store.skip_downtime(wall_now)
        self._newest: dict[tuple[str, str], Lease] = {}  # by role and name
        for record in store.newest_leases(since=wall_now - FORGET_SECONDS):
            seen = now - max(0.0, wall_now - record.seen_time) if record.ended else now
            lease = Lease(record, seen, not record.ended, store.counters(record.incarnation), record.step_limit)
            self._newest[record.role, record.name] = lease
        self._live = {lease.record.incarnation: lease for lease in self._newest.values() if lease.alive}
        # Steps that live actors may still take, by incarnation, and their sum, so that its cost does not grow with the fleet.
        self._reserved: dict[int, int] = {}
        self._reserved_sum = 0
        for lease in self._live.values():
            self._reserve(lease)

    def reserved_by_others(self, lease: Lease | None) -> tuple[int, int]:
        """(number of other live actors, steps that these may still take in total)."""
        own = None if lease is None else self._reserved.get(lease.record.incarnation)
        return len(self._reserved) - (own is not None), self._reserved_sum - (own or 0)

    def live_of(self, role: str) -> list[Lease]:
        return [lease for lease in self._live.values() if lease.role == role]

    def listed(self) -> list[Lease]:
        """The newest lease of each member, including ended ones until they are forgotten."""
        return list(self._newest.values())

    def newest(self, role: str, name: str) -> Lease | None:
        """The newest lease of one member, alive or not."""
        return self._newest.get((role, name))

    def held(self, incarnation: int) -> Lease:
        """
        Raises:
            Refused: NOT_FOUND, no such lease is alive.
        """
        lease = self._live.get(incarnation)
        if lease is None:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"incarnation {incarnation} holds no lease: join again")
        return lease

    def given(self, incarnation: int) -> Lease:
        """The lease, even if it has ended.

        Raises:
            Refused: NOT_FOUND, it was never given.
        """
        for lease in self._newest.values():
            if lease.record.incarnation == incarnation:
                return lease
        record = self._store.lease(incarnation)
        if record is None:
            raise never_given(incarnation)
        return Lease(record, 0.0, alive=False, counters=self._store.counters(incarnation), step_limit=record.step_limit)

    def give(self, request: fleet_pb2.JoinRequest, position: int, step_limit: int, earlier: Lease | None) -> Lease:
        """Gives a member a new, durable lease. `earlier` is the same member's previous lease."""
        now = time.time()
        record = LeaseRecord(
            incarnation=0,
            role=request.role,
            name=request.name,
            position=position,
            joined_time=now,
            metrics_address=request.metrics_address,
            health_address=request.health_address,
            process_id=request.process_id,
            seen_time=now,
            step_limit=step_limit,
            ended=False,
            origin=self._origin(request.earlier_incarnation),
            process=request.process,
        )
        incarnation = self._store.add_lease(record, earlier.record.incarnation if earlier else None)
        record = record._replace(incarnation=incarnation, origin=record.origin or incarnation)
        lease = Lease(record, self._clock(), alive=True, counters={}, step_limit=record.step_limit)
        self._newest[record.role, record.name] = self._live[record.incarnation] = lease
        self._reserve(lease)
        return lease

    def _reserve(self, lease: Lease) -> None:
        if lease.role != "actor":
            return
        self._reserved_sum -= self._reserved.pop(lease.record.incarnation, 0)
        if lease.alive:
            steps = self._reserved[lease.record.incarnation] = reserved(lease.step_limit, lease.env_steps)
            self._reserved_sum += steps

    def _origin(self, earlier_incarnation: int) -> int:
        """The first lease of a process that held `earlier_incarnation`; 0 if it held none."""
        record = self._store.lease(earlier_incarnation) if earlier_incarnation else None
        return 0 if record is None else record.origin

    def free_index(self, request: fleet_pb2.JoinRequest, earlier: Lease | None) -> int:
        """The requested index, else the previous one, else the lowest; never one that a live member of the role holds."""
        taken = {lease.record.position for lease in self.live_of(request.role)}
        asked = (request.index,) if request.HasField("index") else ()
        held = (earlier.record.position,) if earlier is not None else ()
        return next(index for index in itertools.chain(asked, held, itertools.count()) if index not in taken)

    def end(self, lease: Lease) -> None:
        """Ends the lease in memory; `save` writes that to the store."""
        lease.alive = False
        lease.gauges = {}
        self._live.pop(lease.record.incarnation, None)

    def save(self, lease: Lease) -> None:
        """Writes a changed lease."""
        self._reserve(lease)
        self._store.update_lease(lease.record.incarnation, lease.counters, lease.step_limit, time.time(), ended=not lease.alive)

    def expired(self) -> list[Lease]:
        """Live leases that were not renewed. Forgets members that are long gone.

        Checks about twenty times within a lease, not at every call. Call it at least once a second: after a silence of more
        than half a lease, all leases restart.
        """
        now = self._clock()
        if now < self._next_sweep:
            return []
        if now - self._next_sweep > self._lease_seconds / 2:
            # The coordinator sends itself a heartbeat every second. So it was stopped, and could not hear anyone meanwhile.
            for lease in self._live.values():
                lease.seen = now
        self._next_sweep = now + self._lease_seconds / 20
        for key, lease in list(self._newest.items()):
            if not lease.alive and now - lease.seen > FORGET_SECONDS:
                del self._newest[key]
        return [lease for lease in self._live.values() if now - lease.seen > self._lease_seconds]

    def renew(self, lease: Lease) -> None:
        lease.seen = self._clock()

    def seconds_since_heartbeat(self, lease: Lease) -> float:
        return self._clock() - lease.seen


def never_given(incarnation: int) -> Refused:
    return Refused(grpc.StatusCode.NOT_FOUND, f"incarnation {incarnation} was never given")
