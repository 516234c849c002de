"""A process's membership in the fleet: heartbeats in the background, and waiting for their answers."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Self

from sbrl import config as configs
from sbrl.config import Config, with_derived_of
from sbrl.coordination.fleet import STEPS_COUNTER, Instructions, RunState
from sbrl.coordination.lease import Lease, NameTakenError
from sbrl.coordination.process_identity import own_identity
from sbrl.coordination.weights import StaleTermError
from sbrl.errors import RunError
from sbrl.rpc import channels
from sbrl.runtime.lifecycle import RoleRuntime
from sbrl.storage.black_box import Record
from sbrl.telemetry.metrics import RoleMetrics
from sbrl.v1 import fleet_pb2, fleet_pb2_grpc

HEARTBEAT_SECONDS = 1.0
TAKEN_SECONDS = 15.0  # a lease ends after 10 seconds without a heartbeat
# An actor asks sooner if it has used up its allowance, or has just lost most of it to waiting actors. So does any member that
# waits to hear where replay is sampled.
EAGER_HEARTBEAT_SECONDS = 0.2

_log = logging.getLogger(__name__)


class FleetMember:
    """One process's place in the fleet. A daemon thread keeps it until `leave`. `Lease` makes the calls."""

    def __init__(
        self,
        address: str,
        role: str,
        name: str,
        *,
        counters: Callable[[], Mapping[str, float]],
        gauges: Callable[[], Mapping[str, float]] = dict,
        index: int | None = None,
        health_address: str = "",
        metrics_address: str = "",
    ) -> None:
        """Prepares the membership; `start` begins it.

        Args:
            address: host:port of the coordinator.
            counters: Called for each heartbeat. Cumulative since the process started, never falling. Actors count `env_steps`.
            gauges: Called for each heartbeat. Readings for the live view.
            index: The index to ask for; None takes the lowest free one.
        """
        self._address, self._role, self._counters = address, role, counters
        request = fleet_pb2.JoinRequest(
            role=role,
            name=name,
            index=index,
            metrics_address=metrics_address,
            health_address=health_address,
            process_id=os.getpid(),
            process=own_identity(),
        )
        self._channel = channels.open_channel(address)
        self._lease = Lease(fleet_pb2_grpc.FleetStub(self._channel), request, counters, gauges, self._allow_nothing)
        self._exchange = threading.Lock()  # one exchange at a time
        self._answered = threading.Condition()  # guards the next two
        self._answers = 0
        self._instructions = Instructions(RunState.RUNNING, env_steps=0, step_allowance=0, step_limit=0)
        self._taken: NameTakenError | None = None
        self._start_time = self._exchange_time = time.monotonic()
        self._awaits_sampling = False
        self._stopping, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="fleet", daemon=True)

    @classmethod
    def of_role(
        cls, address: str, role: str, name: str, metrics: RoleMetrics, runtime: RoleRuntime, index: int | None = None
    ) -> Self:
        """The membership of a role program. It reports the same counters and gauges that the program exports."""
        return cls(
            address,
            role,
            name,
            counters=metrics.counters,
            gauges=metrics.gauges,
            index=index,
            health_address=runtime.health_address,
            metrics_address=runtime.metrics_address,
        )

    def start(self) -> None:
        """Joins and sends heartbeats in the background. Waits for an absent coordinator."""
        self._thread.start()

    def wait_joined(self, timeout: float) -> None:
        """Waits for the first lease.

        Raises:
            CoordinatorUnavailable: there was no lease within `timeout` seconds.
            NameTakenError: another process has held this name for longer than a lease lasts.
        """
        with self._answered:
            if not self._answered.wait_for(lambda: self._lease.is_given, timeout):
                if self._taken is not None and time.monotonic() - self._start_time > TAKEN_SECONDS:
                    raise self._taken
                raise channels.CoordinatorUnavailable(
                    f"could not join the fleet within {timeout:g} s: no answer from {self._address}"
                )

    def wait_joined_or(self, stop: threading.Event) -> bool:
        """Waits for the first lease without a time limit. False if `stop` was set first."""
        while not stop.is_set():
            try:
                self.wait_joined(HEARTBEAT_SECONDS)
                return True
            except channels.CoordinatorUnavailable as error:
                _log.debug("%s; still trying", error)
        return False

    def wait_instructions(self, timeout: float) -> Instructions:
        """Waits for the coordinator's next answer, up to `timeout` seconds. Returns the newest instructions."""
        with self._answered:
            seen = self._answers
            self._answered.wait_for(lambda: self._answers != seen, timeout)
            return self._instructions

    def wait_sampling(self, configured: str, stop: threading.Event) -> str:
        """Where batches are drawn: cached or remote. With auto, waits for the learner's choice.

        Returns an empty string if `stop` was set first.
        """
        if configured != "auto":
            return configured
        if not self.instructions.sampling:
            _log.info("waiting for the learner to choose where replay is sampled")
            self._awaits_sampling = True
            self._wake.set()
        while not (stop.is_set() or self.instructions.sampling):
            self.wait_instructions(HEARTBEAT_SECONDS)
        return self.instructions.sampling

    @property
    def index(self) -> int:
        """This member's index within its role. Raises RunError before the first lease."""
        return self._lease.held.index

    @property
    def incarnation(self) -> int:
        """The lease's number, unique in the run. Raises RunError before the first lease."""
        return self._lease.held.incarnation

    def report_progress(self, progress: Callable[[], fleet_pb2.LearnerProgress]) -> None:
        """Learners: adds the result of `progress` to every heartbeat."""
        self._lease.progress = progress

    def settle_for(self, died: Record | None) -> None:
        """Before `start`: the counters of an earlier process that was killed before it could report all of them."""
        self._lease.predecessor = died

    def of_this_lease(self, counters: Mapping[str, float]) -> Record:
        """The part of the process's counters that belongs to the newest lease."""
        return self._lease.counted(counters)

    def hold_term(self, term: int) -> None:
        """Adds the learner's term to the reports."""
        self._lease.term = term

    def check_fenced(self) -> None:
        """
        Raises:
            StaleTermError: the coordinator has refused this learner's reports, because another has taken over.
        """
        if self._lease.fenced is not None:
            raise self._lease.fenced

    def has_exchanged_since(self, since: float) -> bool:
        """Whether a heartbeat that began after `since` (monotonic clock, seconds) was answered or has failed."""
        return self._exchange_time > since

    def settled_config(self, config: Config) -> Config:
        """The config with the derived values that the coordinator has kept from the run's beginning.

        Raises RunError before the first lease.
        """
        return with_derived_of(config, configs.parse(self._lease.held.config, "the coordinator's config"))

    @property
    def instructions(self) -> Instructions:
        """The newest instructions; before the first lease they allow no step."""
        with self._answered:
            return self._instructions

    def send_heartbeat(self) -> Instructions:
        """Joins if necessary, reports the counters and returns the new instructions.

        Raises:
            CoordinatorUnavailable: no answer in time. The next heartbeat reports the counters.
            RunError: the coordinator refused the counters.
        """
        with self._exchange:
            with channels.coordinator_errors(self._address), self._noted_exchange():
                instructions = self._lease.exchange()
            with self._answered:
                self._instructions = instructions
                self._answers += 1
                self._answered.notify_all()
        return instructions

    def leave(self) -> None:
        """Stops sending heartbeats and ends the lease with the last counters. Does not wait for an absent coordinator."""
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()  # an exchange in flight ends at its calls' deadlines
        try:
            with self._exchange, channels.coordinator_errors(self._address):
                self._lease.end()
        except RunError as error:
            _log.warning("left the fleet without a last report: %s", error)
        self._channel.close()

    @contextmanager
    def _noted_exchange(self) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self._exchange_time = start

    def _run(self) -> None:
        absent = False
        while not self._stopping.is_set():
            before = self.instructions
            try:
                pause = self._pause(before, self.send_heartbeat())
                if absent:
                    _log.info("coordinator at %s is back", self._address)
                absent = False
            except channels.CoordinatorUnavailable as error:
                if not absent:  # once per outage, not once a second
                    _log.warning("%s; trying again every %g s", error, HEARTBEAT_SECONDS)
                absent, pause = True, HEARTBEAT_SECONDS
            except StaleTermError as error:
                _log.warning("%s", error)
                return
            except NameTakenError as error:
                # A pod that was moved finds its own old lease, which ends within the next few seconds.
                self._taken, pause = error, HEARTBEAT_SECONDS
            except Exception:  # a failed heartbeat must never stop the next ones: the lease would end silently
                _log.exception("heartbeat failed")
                pause = HEARTBEAT_SECONDS
            self._wake.wait(pause)
            self._wake.clear()

    def _pause(self, before: Instructions, now: Instructions) -> float:
        if self._awaits_sampling and not now.sampling:
            return EAGER_HEARTBEAT_SECONDS
        if self._role != "actor" or now.state is not RunState.RUNNING:
            return HEARTBEAT_SECONDS
        spent = now.step_allowance == 0 or self._counters().get(STEPS_COUNTER, 0) >= now.step_limit
        cut = now.step_allowance < before.step_allowance / 2
        return EAGER_HEARTBEAT_SECONDS if spent or cut else HEARTBEAT_SECONDS

    def _allow_nothing(self) -> None:
        """The allowance ended with the lease."""
        with self._answered:
            self._instructions = self._instructions._replace(step_allowance=0, step_limit=0)
