"""The fleet's status, asked for in the background: for those who must not wait for the coordinator."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from sbrl.coordination.fleet import FleetClient, RunState
from sbrl.errors import RunError
from sbrl.rpc.channels import CoordinatorUnavailable
from sbrl.v1.fleet_pb2 import GetStatusResponse

CALL_BEGINS_SECONDS = 1.0

logger = logging.getLogger(__name__)

SILENT_SECONDS = 10.0  # without an answer, which is then said: a coordinator that dies is back within less


class FleetWatch:
    """Asks the coordinator every `interval_seconds` how the fleet stands and keeps the newest answer."""

    def __init__(self, client: FleetClient, interval_seconds: float) -> None:
        self._client, self._interval = client, interval_seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fleet-watch", daemon=True)
        self._status = GetStatusResponse()
        self._answer_time = time.monotonic()
        self._problem = "it has not been asked"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Asks no more: the client may be closed, which ends a call in flight."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join(CALL_BEGINS_SECONDS)  # so that it begins no call on a closed connection

    @property
    def status(self) -> GetStatusResponse:
        """The newest answer; an empty one before the first."""
        return self._status

    def ask(self) -> GetStatusResponse:
        """An answer of this moment, which is then the newest.

        Raises:
            CoordinatorUnavailable: there was none in time.
        """
        try:
            self._status = self._client.status()
        except RunError as error:
            self._problem = str(error)
            raise
        self._answer_time = time.monotonic()
        return self._status

    @property
    def age_seconds(self) -> float:
        """Since the newest answer."""
        return time.monotonic() - self._answer_time

    @property
    def problem(self) -> str:
        """Why the newest question that had no answer had none; names the coordinator's address."""
        return self._problem

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self.ask()
            except CoordinatorUnavailable as error:
                logger.debug("no status: %s", error)
            except RunError:  # refused: this thread goes on asking all the same
                logger.exception("no status")
            self._stopped.wait(self._interval)


class SilenceNotice:
    """Says it once when the coordinator has given no answer for `SILENT_SECONDS`, and why; and when it answers again."""

    def __init__(self, watch: FleetWatch, say: Callable[[str], None]) -> None:
        self._watch, self._say = watch, say
        self._said = False

    def look(self) -> None:
        """To be called about once a second."""
        is_silent = self._watch.age_seconds >= SILENT_SECONDS
        if is_silent and not self._said:
            self._say(f"no answer for {SILENT_SECONDS:.0f} s: {self._watch.problem}; asking on (see logs/coordinator.log)")
        elif self._said and not is_silent:
            self._say("the coordinator answers again")
        self._said = is_silent


def total(status: GetStatusResponse, name: str) -> float:
    """A counter `<role>.<counter>` summed over all processes there ever were; 0 if nobody counted it."""
    return float(status.totals.get(name, 0.0))


def run_state(status: GetStatusResponse) -> RunState | None:
    """How the run stands; None before the coordinator's first answer."""
    return RunState(status.state) if status.state else None


def all_collected(status: GetStatusResponse) -> bool:
    """Whether run.env_steps are collected and no actor is left that could still insert."""
    if run_state(status) not in (RunState.COLLECTED, RunState.FINISHED):
        return False
    return not any(member.alive for member in status.members if member.role == "actor")
