"""The fleet's leases, counters and instructions: kept in memory for speed and in the store for ever."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import grpc

from sbrl.fleet import ROLES, STEPS_COUNTER, RunState
from sbrl.metrics import CoordinatorMetrics
from sbrl.ratio_books import DUE, INSERTED, by_shard
from sbrl.v1 import fleet_pb2
from services.coordinator.allowance import reserved, step_allowance
from services.coordinator.books import NO_SHARDS, Plan
from services.coordinator.leases import Lease, Leases, never_given
from services.coordinator.ledger import OWN_COUNTERS, Ledger
from services.coordinator.manifests import CheckpointRecord
from services.coordinator.refusal import Refused, invalid
from services.coordinator.snapshots import Snapshots
from services.coordinator.store import Store

LEASE_SECONDS = 10.0
# Whole numbers up to here are exact as doubles, which counters travel as.
MAX_COUNT = 2.0**53
_FINISHED_TARGET = "finished_env_steps"
# A limiter's count that is off by no more is left alone: rounding.
COUNT_TOLERANCE = 1.0

_log = logging.getLogger(__name__)


class Fleet:
    """Who is there, what they have counted, and what each is to do. Safe to call from many threads.

    Memory is changed first and then written: counters are cumulative, so a write that failed is made good by the next beat.
    """

    def __init__(
        self,
        store: Store,
        target_env_steps: int,
        metrics: CoordinatorMetrics,
        snapshots: Snapshots,
        plan: Plan = NO_SHARDS,
        lease_seconds: float = LEASE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes up the stored fleet: leases that had not ended start afresh, for nobody could beat while this was down."""
        self._store = store
        self._target = target_env_steps
        self._metrics = metrics
        self._snapshots, self._plan = snapshots, plan
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._load()
        for role in ROLES:
            metrics.live_members.labels(role).set_function(partial(self._count_live, role))
            for counter in (metrics.leases_expired, metrics.rejoins):
                counter.labels(role)  # there from the start, so that rates see the first one
        for state in RunState:
            metrics.run_state.labels(state.name.lower()).set_function(partial(self._is_state, state))
        for gauge, key in (
            (metrics.env_steps, ("actor", STEPS_COUNTER)),
            (metrics.transitions_dropped, ("actor", "transitions_dropped")),
            (metrics.transitions_inserted, ("replay", "transitions_inserted")),
            (metrics.updates, ("learner", "updates")),
            (metrics.samples_trained, ("learner", "samples_trained")),
            (metrics.losses_not_finite, ("learner", "losses_not_finite")),
        ):
            gauge.set_function(partial(self._presented, key))
        metrics.samples_due.set_function(lambda: self._ledger.due()[DUE])
        metrics.samples_owed.set_function(self._owed_beyond_limiters)
        metrics.timeline.set_function(lambda: float(self._snapshots.timeline))

    def _load(self) -> None:
        """Reads everything from the store."""
        store = self._store
        self._ledger = Ledger(store, self._plan)
        # A run that was finished and is now to collect more steps is running again.
        self._finished = store.number(_FINISHED_TARGET) == self._target
        self._leases = Leases(store, self._lease_seconds, self._clock)

    @property
    def env_steps(self) -> int:
        """Steps that actors have reported since the run began."""
        return int(self._ledger.total("actor", STEPS_COUNTER))

    def join(self, request: fleet_pb2.JoinRequest) -> fleet_pb2.JoinResponse:
        """Gives a lease, ending an earlier one of the same role and name.

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
            if earlier is not None:
                if earlier.alive:
                    self._ledger.lose(request.role, earlier.counters)
                if request.role == "replay" and not request.earlier_incarnation:
                    self._ledger.settle_shard(earlier.record.position, earlier.counters)
                self._leases.end(earlier)
                self._leases.save(earlier)
                self._metrics.rejoins.labels(request.role).inc()
            position = self._leases.free_index(request, earlier)
            instructions = self._instructions(request.role, position, others=self._leases.live)
            if request.role == "replay" and (owed := self._ledger.owed(position)) is not None:
                instructions.samples_owed = owed
            record = self._leases.give(request, position, instructions.step_allowance, earlier).record
            base = self._snapshots.base_checkpoint(record.role, record.position)
        _log.info("%s joined as %s %d, incarnation %d", record.name, record.role, record.position, record.incarnation)
        return fleet_pb2.JoinResponse(
            index=record.position,
            incarnation=record.incarnation,
            lease_seconds=self._lease_seconds,
            instructions=instructions,
            checkpoint=base.checkpoint if base else "",
            checkpoint_sha256=base.sha256 if base else "",
        )

    def beat(self, request: fleet_pb2.BeatRequest) -> fleet_pb2.BeatResponse:
        """Renews a lease, takes its counters and gives instructions.

        Raises:
            Refused: NOT_FOUND, the lease has ended; INVALID_ARGUMENT, a counter is negative or not finite; FAILED_PRECONDITION,
                a learner that has been replaced.
        """
        _check(request)
        with self._lock:
            self._sweep()
            lease = self._leases.held(request.incarnation)
            self._check_epoch(lease, request)
            self._count(lease, request.counters)
            self._leases.renew(lease)
            lease.gauges = dict(request.gauges)
            if self._state() is RunState.RUNNING:
                present = {(other.role, other.record.position) for other in self._leases.live}
                self._snapshots.order_if_due(present)
            others = [other for other in self._leases.live if other is not lease]
            instructions = self._instructions(lease.role, lease.record.position, others)
            self._correct_limiter(lease, instructions)
            # The member may act on the limit it held when it sent this until it has the answer, which may be lost.
            lease.step_limit = max(request.step_limit, lease.env_steps + instructions.step_allowance)
            self._leases.save(lease)
        self._metrics.beats.inc()
        return instructions

    def leave(self, request: fleet_pb2.BeatRequest) -> None:
        """Ends a lease with its last counters; one that has ended already only has them counted.

        Raises:
            Refused: NOT_FOUND, the incarnation was never given, or the run has gone back behind it; INVALID_ARGUMENT,
                a counter is negative or not finite; FAILED_PRECONDITION, a learner that has been replaced.
        """
        _check(request)
        with self._lock:
            lease = self._leases.given(request.incarnation)
            self._check_epoch(lease, request)
            if request.died and (request.role, request.name) != (lease.role, lease.record.name):
                raise never_given(request.incarnation)
            self._ledger.find(lease.role, lease.counters)
            self._count(lease, request.counters)
            if request.died:
                self._ledger.lose(lease.role, lease.counters)
            if lease.alive:
                _log.info("%s left", lease.record.name)
            self._leases.end(lease)
            self._leases.save(lease)

    def finish(self) -> None:
        """Ends the run, durably: the state is FINISHED until the run is given another number of steps."""
        with self._lock:
            self._store.set_number(_FINISHED_TARGET, self._target)
            self._finished = True

    def status(self) -> fleet_pb2.GetStatusResponse:
        """Members, totals and state; the rest of the response is left unset."""
        with self._lock:
            self._sweep()
            return fleet_pb2.GetStatusResponse(
                members=[self._member(lease) for lease in self._leases.listed()],
                totals={
                    **{f"{role}.{name}": value for (role, name), value in self._ledger.net().items()},
                    **self._ledger.due(),
                },
                state=self._state().wire_name,
                timeline=self._snapshots.timeline,
                generation_ordered=self._snapshots.ordered,
                generations=self._snapshots.describe(),
            )

    def order_generation(self) -> int:
        """Orders a generation now; returns its number."""
        with self._lock:
            return self._snapshots.order()

    def report_checkpoint(self, request: fleet_pb2.ReportCheckpointRequest) -> None:
        """Takes a member's checkpoint for a generation.

        Raises:
            Refused: NOT_FOUND, no such lease; FAILED_PRECONDITION, the generation is not wanted; INVALID_ARGUMENT, a counter is
                not finite, or negative, as the run's.
        """
        if not request.checkpoint or len(request.sha256) != 64:
            raise invalid("a checkpoint has a name and a SHA-256 of 64 hexadecimal digits")
        if request.size_bytes > MAX_COUNT:
            raise invalid(f"size_bytes is {request.size_bytes}, above {MAX_COUNT:.0f}")
        with self._lock:
            lease = self._leases.held(request.incarnation)
            counters = dict(request.counters)
            if lease.role == "replay":
                # The run's insertions that it holds are those before this incarnation, and its own: less than none, where it
                # was made under the lease before, and the process has reported more as that ended.
                name = by_shard(INSERTED, lease.record.position)
                before = self._ledger.total("replay", name) - lease.counters.get(name, 0.0)
                own = counters.get(INSERTED, 0.0)
                if not -MAX_COUNT <= own <= MAX_COUNT or before + own < 0:
                    raise invalid(f"counter {INSERTED!r} is {own}: the run's would be {before + own}")
                counters = {INSERTED: before + own}
            else:
                _check_counters(counters)
            record = CheckpointRecord(lease.role, lease.record.position, request.checkpoint, request.size_bytes, request.sha256)
            self._snapshots.report(record, request.generation, counters, self._ledger.totals)

    def refuse_checkpoint(self, request: fleet_pb2.RefuseCheckpointRequest) -> None:
        """Goes back a generation further, for a member cannot use its part of the one that the timeline begins with.

        Raises:
            Refused: NOT_FOUND, no such lease.
        """
        with self._lock:
            if request.timeline != self._snapshots.timeline:
                return  # the run has gone back already, for another
            lease = self._leases.held(request.incarnation)
            self._snapshots.refuse(lease.record.name, request.reason)
            self._load()

    def _check_only_learner(self, request: fleet_pb2.JoinRequest) -> None:
        """A learner of another name than the live one's waits: to let it in would be to throw away what that has not saved."""
        if request.role != "learner":
            return
        for lease in self._leases.live_of("learner"):
            if request.name != lease.record.name:
                raise Refused(
                    grpc.StatusCode.ALREADY_EXISTS,
                    f"{lease.record.name} is this run's learner, and alive: stop it, or wait until its lease has ended",
                )

    def _presented(self, role_and_counter: tuple[str, str]) -> float:
        with self._lock:
            return self._ledger.net().get(role_and_counter, 0.0)

    def _owed_beyond_limiters(self) -> float:
        """Samples due that the live shards' limiters would not admit, by their last reports; negative: they admit too many."""
        with self._lock:
            shards = self._leases.live_of("replay")
            return sum(self._ledger.astray(lease.record.position, lease.gauges) for lease in shards)

    def _correct_limiter(self, lease: Lease, instructions: fleet_pb2.BeatResponse) -> None:
        """While the learner holds still for it, tells a shard how far its count is off."""
        if lease.role != "replay" or not self._learner_gauge("settling"):
            return
        astray = self._ledger.astray(lease.record.position, lease.gauges)
        if abs(astray) > COUNT_TOLERANCE:
            instructions.limiter_correction = astray

    def _check_epoch(self, lease: Lease, request: fleet_pb2.BeatRequest) -> None:
        """Raises Refused for a learner that has been replaced: what it has trained since is no part of the run's network."""
        if lease.role == "learner" and request.epoch and request.epoch != self._store.number("epoch"):
            self._metrics.reports_fenced.inc()
            raise Refused(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"epoch {request.epoch} is not the newest: another learner has taken over",
            )

    def _is_state(self, state: RunState) -> float:
        return float(self._state() is state)

    def _state(self) -> RunState:
        if self._finished:
            return RunState.FINISHED
        return RunState.COLLECTED if self.env_steps >= self._target else RunState.RUNNING

    def _instructions(self, role: str, position: int, others: Iterable[Lease]) -> fleet_pb2.BeatResponse:
        """What a member is to do; `others` are the live members but it."""
        state, env_steps, allowance = self._state(), self.env_steps, 0
        if role == "actor" and state is RunState.RUNNING:
            actors = [other for other in others if other.role == "actor"]
            allowance = step_allowance(
                self._target - env_steps, [reserved(actor.step_limit, actor.env_steps) for actor in actors]
            )
        return fleet_pb2.BeatResponse(
            state=state.wire_name,
            env_steps=env_steps,
            step_allowance=allowance,
            initial_priority=max(1.0, self._learner_gauge("max_priority")),
            timeline=self._snapshots.timeline,
            generation=self._snapshots.ordered,
            kept_generations=self._snapshots.kept,
            checkpoint_wanted=self._snapshots.wants(role, position),
        )

    def _learner_gauge(self, name: str) -> float:
        """A live learner's newest reading; 0 while there is none, or none that is finite."""
        readings = (lease.gauges.get(name, 0.0) for lease in self._leases.live_of("learner"))
        return max((reading for reading in readings if math.isfinite(reading)), default=0.0)

    def _count(self, lease: Lease, counters: Mapping[str, float]) -> None:
        self._ledger.count(lease.role, lease.counters, counters)

    def _sweep(self) -> None:
        """Ends leases that were not renewed."""
        for lease in self._leases.expired():
            _log.warning("%s is lost: no beat for %.0f s", lease.record.name, self._leases.seconds_since_beat(lease))
            self._metrics.leases_expired.labels(lease.role).inc()
            self._ledger.lose(lease.role, lease.counters)
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
            seconds_since_beat=self._leases.seconds_since_beat(lease),
            alive=lease.alive,
            metrics_address=lease.record.metrics_address,
            health_address=lease.record.health_address,
            process_id=lease.record.process_id,
            counters=lease.counters,
            gauges=lease.gauges,
        )


def _check_counters(counters: Mapping[str, float]) -> None:
    for name, value in counters.items():
        if not name or not 0 <= value <= MAX_COUNT:
            raise invalid(f"counter {name!r} is {value}: counters have a name and lie between 0 and {MAX_COUNT:.0f}")


def _check(request: fleet_pb2.BeatRequest) -> None:
    _check_counters(request.counters)
    if own := OWN_COUNTERS & request.counters.keys():
        raise invalid(f"counter {min(own)!r} is the coordinator's own")
    if request.step_limit > MAX_COUNT:
        raise invalid(f"step_limit is {request.step_limit}, above {MAX_COUNT:.0f}")
