"""One process's lease in the fleet: getting it, keeping it by heartbeats, ending it; one call at a time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

import grpc

from sbrl.coordination.fleet import CALL_SECONDS, STEPS_COUNTER, Instructions
from sbrl.coordination.process_identity import described, is_gone
from sbrl.coordination.weights import StaleTermError
from sbrl.errors import RunError
from sbrl.storage.black_box import Record
from sbrl.v1 import fleet_pb2, fleet_pb2_grpc

_log = logging.getLogger(__name__)


class NameTakenError(RunError):
    """Another living process has this member's name."""


class Lease:
    """A process's place in the fleet, and the counters reported under it.

    A new incarnation replaces a lease that ended. The coordinator's totals stay exact: the counters of the ended lease are
    settled first, and those of the new one are relative to them. One thread at a time may exchange; any thread may read.
    """

    def __init__(
        self,
        stub: fleet_pb2_grpc.FleetStub,
        request: fleet_pb2.JoinRequest,
        counters: Callable[[], Mapping[str, float]],
        gauges: Callable[[], Mapping[str, float]],
        on_end: Callable[[], None],
    ) -> None:
        """
        Args:
            counters, gauges: called for each report.
            on_end: called when the lease turns out to have ended, before its last counters are read. No step may follow it.
        """
        self._stub, self._request, self._counters, self._gauges, self._on_end = stub, request, counters, gauges, on_end
        self.predecessor: Record | None = None  # of an earlier process, killed before it could report everything
        self.term = 0  # the term of the learner that reports
        self.progress: Callable[[], fleet_pb2.LearnerProgress] | None = None
        self.fenced: StaleTermError | None = None
        self._joined = False  # whether there is a lease that is not known to have ended
        self._step_limit = 0  # of the newest instructions
        self._guard = threading.Lock()  # guards the next two
        self._held: fleet_pb2.JoinResponse | None = None
        self._settled: dict[str, float] = {}  # the part of the process's counters that earlier incarnations have reported

    @property
    def name(self) -> str:
        return str(self._request.name)

    @property
    def held(self) -> fleet_pb2.JoinResponse:
        """The newest lease. Raises RunError before the first."""
        if self._held is None:
            raise RunError(f"{self.name} has not joined the fleet yet")
        return self._held

    @property
    def is_given(self) -> bool:
        """Whether there has been a lease."""
        return self._held is not None

    def counted(self, counters: Mapping[str, float]) -> Record:
        """The part of the process's counters that belongs to the newest lease. Raises RunError before the first."""
        with self._guard:
            return Record(int(self.held.incarnation), self._relative(counters))

    def exchange(self) -> Instructions:
        """Joins if necessary, reports the counters, and returns the coordinator's instructions.

        Raises:
            grpc.RpcError: no answer, or the counters were refused.
            NameTakenError: another living process has this name.
            StaleTermError: another learner has taken over.
        """
        if not self._joined:
            return self._join()
        counters = dict(self._counters())
        request = self._report(counters)
        try:
            response = self._stub.Heartbeat(request, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            self._note_fencing(error)
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            _log.warning(
                "lease %d has ended (no heartbeat arrived in time, or %s runs twice): joining again",
                request.incarnation,
                self.name,
            )
            self._settle()
            return self._join()
        return self._take(response, counters)

    def end(self) -> None:
        """Ends the lease with the last counters. Raises grpc.RpcError if there is no answer, or they are refused."""
        if self._joined:
            self._stub.Leave(self._report(dict(self._counters())), timeout=CALL_SECONDS)

    def _join(self) -> Instructions:
        self._settle_predecessor()
        request = fleet_pb2.JoinRequest()
        request.CopyFrom(self._request)
        request.earlier_incarnation = 0 if self._held is None else self._held.incarnation
        response = self._stub.Join(request, timeout=CALL_SECONDS)
        if response.holder and is_gone(response.holder):
            request.replaces = response.holder_incarnation
            response = self._stub.Join(request, timeout=CALL_SECONDS)
        if response.holder:
            raise NameTakenError(
                f"{request.role} {self.name} of this run is {described(response.holder)}, which is alive: stop it, or give "
                f"this one another --name"
            )
        if self._held is not None and response.index != self._held.index:
            _log.warning("index changed from %d to %d", self._held.index, response.index)
        self._joined = True
        with self._guard:
            self._held = response
        _log.info("joined as %s %d, incarnation %d", self._request.role, response.index, response.incarnation)
        return self._take(response.instructions, self._settled)

    def _settle_predecessor(self) -> None:
        if self.predecessor is None:
            return
        incarnation, counters = self.predecessor
        request = fleet_pb2.HeartbeatRequest(
            incarnation=incarnation, counters=counters, died=True, role=self._request.role, name=self.name
        )
        try:
            self._stub.Leave(request, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            # NOT_FOUND: it belongs to another run. INVALID_ARGUMENT: this program did not write it.
            if error.code() not in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
                raise
        self.predecessor = None

    def _settle(self) -> None:
        """Reports the last counters of the ended lease, so that the next lease can continue from them."""
        self._on_end()
        self._step_limit = 0  # the allowance ended with the lease
        counters = dict(self._counters())
        try:
            self._stub.Leave(self._report(counters), timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            self._note_fencing(error)
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            _log.warning("the coordinator never gave this lease: it has lost its state")
        else:
            with self._guard:
                self._settled = counters
        self._joined = False

    def _report(self, counters: Mapping[str, float]) -> fleet_pb2.HeartbeatRequest:
        held = self._step_limit - int(self._settled.get(STEPS_COUNTER, 0.0))
        return fleet_pb2.HeartbeatRequest(
            incarnation=self.held.incarnation,
            counters=self._relative(counters),
            gauges=self._gauges(),
            step_limit=max(0, held),
            term=self.term,
            progress=None if self.progress is None else self.progress(),
        )

    def _relative(self, counters: Mapping[str, float]) -> dict[str, float]:
        """The part of the process's counters that belongs to this incarnation."""
        return {name: value - self._settled.get(name, 0.0) for name, value in counters.items()}

    def _take(self, response: fleet_pb2.HeartbeatResponse, counters: Mapping[str, float]) -> Instructions:
        instructions = Instructions.of(response, counters.get(STEPS_COUNTER, 0.0))
        self._step_limit = instructions.step_limit
        return instructions

    def _note_fencing(self, error: grpc.RpcError) -> None:
        if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
            self.fenced = StaleTermError(f"reports refused: {error.details()}")
            raise self.fenced from None
