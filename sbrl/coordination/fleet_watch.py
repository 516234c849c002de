"""Reads the fleet's status in the background, for code that must not wait for the coordinator."""

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

SILENT_SECONDS = 10.0  # without an answer, until a notice: a coordinator that dies is back sooner


class FleetWatch:
    """Asks the coordinator for the fleet's status every `interval_seconds` and keeps the newest answer."""

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
        """Stops asking. The client may be closed afterwards, which ends a call in flight."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join(CALL_BEGINS_SECONDS)  # so that it begins no call on a closed connection

    @property
    def status(self) -> GetStatusResponse:
        """The newest answer; an empty status before the first answer."""
        return self._status

    def ask(self) -> GetStatusResponse:
        """Asks now, and keeps and returns the answer.

        Raises:
            CoordinatorUnavailable: there was no answer in time.
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
        """Seconds since the newest answer."""
        return time.monotonic() - self._answer_time

    @property
    def problem(self) -> str:
        """Why the last failed request got no answer; names the coordinator's address."""
        return self._problem

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self.ask()
            except CoordinatorUnavailable as error:
                logger.debug("no status: %s", error)
            except RunError:  # refused: this thread keeps asking anyway
                logger.exception("no status")
            self._stopped.wait(self._interval)


class SilenceNotice:
    """Reports once that the coordinator has not answered for `SILENT_SECONDS`, and why; and when it answers again."""

    def __init__(self, watch: FleetWatch, say: Callable[[str], None]) -> None:
        self._watch, self._say = watch, say
        self._said = False

    def look(self) -> None:
        """Call this about once a second."""
        is_silent = self._watch.age_seconds >= SILENT_SECONDS
        if is_silent and not self._said:
            self._say(f"no answer for {SILENT_SECONDS:.0f} s: {self._watch.problem}; asking on (see logs/coordinator.log)")
        elif self._said and not is_silent:
            self._say("the coordinator answers again")
        self._said = is_silent


def total(status: GetStatusResponse, name: str) -> float:
    """A counter `<role>.<counter>`, summed over all processes of the run so far; 0 if no process counted it."""
    return float(status.totals.get(name, 0.0))


def run_state(status: GetStatusResponse) -> RunState | None:
    """The state of the run; None before the coordinator's first answer."""
    return RunState(status.state) if status.state else None


def all_collected(status: GetStatusResponse) -> bool:
    """Whether run.env_steps are collected and no living actor could still insert."""
    if run_state(status) not in (RunState.COLLECTED, RunState.FINISHED):
        return False
    return not any(member.alive for member in status.members if member.role == "actor")
