"""The fleet's leases, counters and instructions, in memory for speed and in the store for durability."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

import grpc

from sbrl.coordination.fleet import ROLES, STEPS_COUNTER, RunState
from sbrl.telemetry.metrics import CoordinatorMetrics
from sbrl.v1 import fleet_pb2
from services.coordinator.allowance import step_allowance
from services.coordinator.leases import FORGET_SECONDS, Lease, Leases, never_given
from services.coordinator.refusal import Refused, invalid, stale
from services.coordinator.store import Store

LEASE_SECONDS = 10.0
# Counters are sent as doubles, in which whole numbers are exact up to this.
MAX_COUNT = 2.0**53
_FINISHED_TARGET = "finished_env_steps"

_log = logging.getLogger(__name__)


class Fleet:
    """Members, their counters, and their instructions. Thread-safe.

    Each change is made in memory first and then written. Counters are cumulative, so the next heartbeat repairs a failed write.
    """

    def __init__(
        self,
        store: Store,
        target_env_steps: int,
        metrics: CoordinatorMetrics,
        config: str = "",
        lease_seconds: float = LEASE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Resumes with the stored fleet. Leases that had not ended restart, since no heartbeat could arrive meanwhile.

        Args:
            config: the run's config as YAML, for clients that ask for the run's status.
        """
        self._store = store
        self._target = target_env_steps
        self._metrics = metrics
        self._config = config
        self._lease_seconds = lease_seconds
        self._lock = threading.Lock()
        self._totals = store.totals()
        self._progress = store.progress()
        # A finished run that now has to collect more steps is running again.
        self._finished = store.number(_FINISHED_TARGET) == self._target
        self._leases = Leases(store, lease_seconds, clock)
        for role in ROLES:
            metrics.live_members.labels(role).set_function(partial(self._count_live, role))
            for counter in (metrics.leases_expired, metrics.rejoins):
                counter.labels(role)  # exported from the start, so that a rate includes the first increment
        for state in RunState:
            metrics.run_state.labels(state.name.lower()).set_function(partial(self._is_state, state))
        metrics.env_steps.set_function(lambda: float(self.env_steps))
        metrics.losses_not_finite.set_function(lambda: self._totals.get(("learner", "losses_not_finite"), 0.0))
        for gauge, read in (
            (metrics.updates, lambda progress: progress.updates),
            (metrics.samples_trained, lambda progress: progress.samples_trained),
            (metrics.samples_due, lambda progress: progress.samples_due),
            (metrics.transitions_received, received),
            (metrics.transitions_lost, lost),
        ):
            gauge.set_function(partial(self._read_progress, read))

    @property
    def env_steps(self) -> int:
        """Steps that actors have reported since the run began."""
        return int(self._totals.get(("actor", STEPS_COUNTER), 0.0))

    def join(self, request: fleet_pb2.JoinRequest) -> fleet_pb2.JoinResponse:
        """Gives a lease and ends an earlier one with the same role and name. If another process holds that, says which.

        Raises:
            Refused: INVALID_ARGUMENT, the role is unknown or the name is empty; ALREADY_EXISTS, another learner is alive.
        """
        if request.role not in ROLES:
            raise invalid(f"unknown role {request.role!r}; roles: {', '.join(ROLES)}")
        if not request.name:
            raise invalid("a member needs a name that is unique in its role and stable across its restarts")
        with self._lock:
            self._sweep()
            self._check_only_learner(request)
            earlier = self._leases.newest(request.role, request.name)
            if earlier is not None and _is_anothers(earlier, request):
                return fleet_pb2.JoinResponse(
                    holder=earlier.record.process, holder_incarnation=earlier.record.incarnation, config=self._config
                )
            if earlier is not None:
                self._leases.end(earlier)
                self._leases.save(earlier)
                self._metrics.rejoins.labels(request.role).inc()
            position = self._leases.free_index(request, earlier)
            instructions = self._instructions(request.role, None)
            record = self._leases.give(request, position, instructions.step_allowance, earlier).record
        _log.info("%s joined as %s %d, incarnation %d", record.name, record.role, record.position, record.incarnation)
        return fleet_pb2.JoinResponse(
            index=record.position,
            incarnation=record.incarnation,
            lease_seconds=self._lease_seconds,
            instructions=instructions,
            config=self._config,
        )

    def heartbeat(self, request: fleet_pb2.HeartbeatRequest) -> fleet_pb2.HeartbeatResponse:
        """Renews a lease, takes its counters and returns instructions.

        Raises:
            Refused: NOT_FOUND, the lease has ended; INVALID_ARGUMENT, a counter is negative or not finite; FAILED_PRECONDITION,
                a learner that has been replaced.
        """
        _check(request)
        with self._lock:
            self._sweep()
            lease = self._leases.held(request.incarnation)
            self._check_term(lease, request)
            self._count(lease, request.counters)
            self._leases.renew(lease)
            lease.gauges = dict(request.gauges)
            self._take_progress(lease, request)
            instructions = self._instructions(lease.role, lease)
            # Until it has the answer, which may be lost, the member may act on the limit in its request.
            lease.step_limit = max(request.step_limit, lease.env_steps + instructions.step_allowance)
            self._leases.save(lease)
        self._metrics.heartbeats.inc()
        return instructions

    def leave(self, request: fleet_pb2.HeartbeatRequest) -> None:
        """Ends a lease with its last counters. If it has already ended, only counts them.

        Raises:
            Refused: NOT_FOUND, the incarnation was never given, or the run was restored to an older state;
                INVALID_ARGUMENT, a counter is negative or not finite; FAILED_PRECONDITION, a learner that has been replaced.
        """
        _check(request)
        with self._lock:
            lease = self._leases.given(request.incarnation)
            self._check_term(lease, request)
            if request.died and (request.role, request.name) != (lease.role, lease.record.name):
                raise never_given(request.incarnation)
            self._count(lease, request.counters)
            self._take_progress(lease, request)
            if lease.alive:
                _log.info("%s left", lease.record.name)
            self._leases.end(lease)
            self._leases.save(lease)

    def finish(self) -> None:
        """Ends the run durably: the state is FINISHED until run.env_steps changes."""
        with self._lock:
            self._store.set_number(_FINISHED_TARGET, self._target)
            self._finished = True

    def status(self) -> fleet_pb2.GetStatusResponse:
        """A response with members, totals, state, progress and config; the rest is left unset."""
        with self._lock:
            self._sweep()
            return fleet_pb2.GetStatusResponse(
                members=[self._member(lease) for lease in self._leases.listed()],
                totals={f"{role}.{name}": value for (role, name), value in self._totals.items()},
                state=self._state().wire_name,
                progress=self._progress,
                config=self._config,
            )

    def _check_only_learner(self, request: fleet_pb2.JoinRequest) -> None:
        """Refuses a learner with another name than the live one's: letting it in would lose the live one's unsaved work."""
        if request.role != "learner":
            return
        for lease in self._leases.live_of("learner"):
            if request.name != lease.record.name:
                raise Refused(
                    grpc.StatusCode.ALREADY_EXISTS,
                    f"{lease.record.name} is this run's learner, and alive: stop it, or wait until its lease has ended",
                )

    def _read_progress(self, read: Callable[[fleet_pb2.LearnerProgress], float]) -> float:
        with self._lock:
            return math.nan if self._progress is None else float(read(self._progress))

    def _take_progress(self, lease: Lease, request: fleet_pb2.HeartbeatRequest) -> None:
        """Keeps the progress that a learner with a term reports."""
        if lease.role == "learner" and request.term and request.HasField("progress"):
            self._progress = fleet_pb2.LearnerProgress()
            self._progress.CopyFrom(request.progress)
            self._store.set_progress(self._progress)

    def _check_term(self, lease: Lease, request: fleet_pb2.HeartbeatRequest) -> None:
        """Raises Refused for a replaced learner: what it trained since then is not part of the run's network."""
        if lease.role == "learner" and request.term and request.term != self._store.number("term"):
            self._metrics.reports_fenced.inc()
            raise stale(request.term)

    def _is_state(self, state: RunState) -> float:
        return float(self._state() is state)

    def _state(self) -> RunState:
        if self._finished:
            return RunState.FINISHED
        return RunState.COLLECTED if self.env_steps >= self._target else RunState.RUNNING

    def _instructions(self, role: str, lease: Lease | None) -> fleet_pb2.HeartbeatResponse:
        """The instructions for a member. Args: lease: the member's; None if it is about to get one."""
        state, env_steps, allowance = self._state(), self.env_steps, 0
        if role == "actor" and state is RunState.RUNNING:
            allowance = step_allowance(self._target - env_steps, *self._leases.reserved_by_others(lease))
        return fleet_pb2.HeartbeatResponse(
            state=state.wire_name,
            env_steps=env_steps,
            step_allowance=allowance,
            initial_priority=1.0 if self._progress is None else max(1.0, self._progress.max_priority),
            sampling=None if self._progress is None else self._progress.sampling,
            ended_actors=self._store.ended_actors(time.time() - FORGET_SECONDS) if role == "learner" else (),
        )

    def _count(self, lease: Lease, counters: Mapping[str, float]) -> None:
        """Takes a lease's cumulative counters. Ignores lower values, which are from a heartbeat that arrived late."""
        for name, value in counters.items():
            increase = value - lease.counters.get(name, 0.0)
            if increase >= 0:
                lease.counters[name] = value
                self._totals[lease.role, name] = self._totals.get((lease.role, name), 0.0) + increase

    def _sweep(self) -> None:
        """Ends leases that were not renewed."""
        for lease in self._leases.expired():
            _log.warning("%s is lost: no heartbeat for %.0f s", lease.record.name, self._leases.seconds_since_heartbeat(lease))
            self._metrics.leases_expired.labels(lease.role).inc()
            self._leases.end(lease)
            self._leases.save(lease)

    def _count_live(self, role: str) -> int:
        with self._lock:
            self._sweep()
            return len(self._leases.live_of(role))

    def _member(self, lease: Lease) -> fleet_pb2.Member:
        return fleet_pb2.Member(
            role=lease.role,
            name=lease.record.name,
            index=lease.record.position,
            incarnation=lease.record.incarnation,
            joined_time=lease.record.joined_time,
            seconds_since_heartbeat=self._leases.seconds_since_heartbeat(lease),
            alive=lease.alive,
            metrics_address=lease.record.metrics_address,
            health_address=lease.record.health_address,
            process_id=lease.record.process_id,
            counters=lease.counters,
            gauges=lease.gauges,
        )


def _is_anothers(lease: Lease, request: fleet_pb2.JoinRequest) -> bool:
    """Whether another process holds the lease, and the requester does not claim to replace it."""
    return lease.alive and request.process != lease.record.process and request.replaces != lease.record.incarnation


def received(progress: fleet_pb2.LearnerProgress) -> int:
    """Transitions that the learner has received from all shards."""
    return sum(shard.received for shard in progress.shards)


def lost(progress: fleet_pb2.LearnerProgress) -> int:
    """Transitions that are missing and were not recovered later."""
    return progress.lost_with_actors + sum(shard.lost - shard.recovered for shard in progress.shards)


def _check_progress(progress: fleet_pb2.LearnerProgress) -> None:
    for name, value in (("samples_due", progress.samples_due), ("max_priority", progress.max_priority)):
        if not 0 <= value <= MAX_COUNT:
            raise invalid(f"progress.{name} is {value}: it lies between 0 and {MAX_COUNT:.0f}")
    counts = [progress.updates, progress.samples_trained, progress.memory_transitions, progress.memory_capacity]
    counts.append(progress.lost_with_actors)
    for shard in progress.shards:
        counts += [shard.received, shard.duplicates, shard.lost, shard.recovered]
        if shard.recovered > shard.lost:
            raise invalid(f"progress: {shard.recovered} of a shard's transitions are recovered, of {shard.lost} lost")
    if max(counts) > MAX_COUNT:
        raise invalid(f"progress has a count of {max(counts)}, above {MAX_COUNT:.0f}")


def _check(request: fleet_pb2.HeartbeatRequest) -> None:
    for name, value in request.counters.items():
        if not name or not 0 <= value <= MAX_COUNT:
            raise invalid(f"counter {name!r} is {value}: counters have a name and lie between 0 and {MAX_COUNT:.0f}")
    _check_progress(request.progress)
    if request.step_limit > MAX_COUNT:
        raise invalid(f"step_limit is {request.step_limit}, above {MAX_COUNT:.0f}")
