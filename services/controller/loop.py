"""The controller's loop: observe the fleet, decide, scale the Deployment. All effects are here and in `kube`."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable

from sbrl.cluster.kube import ApiConflict, ApiUnavailable, Cluster, Scale
from sbrl.config import Config
from sbrl.coordination.fleet import FleetClient
from sbrl.errors import RunError
from sbrl.monitor.load import History, LoadReading, no_answer, read
from sbrl.monitor.run_status import config_of
from sbrl.rpc.channels import CoordinatorUnavailable
from sbrl.telemetry.metrics import ControllerMetrics
from services.controller.election import Election
from services.controller.reconcile import (
    Decision,
    Memory,
    Observed,
    Reason,
    ScalingSpec,
    history_seconds,
    reconcile,
)

PATCH_ATTEMPTS = 5  # at patching a Deployment that something else writes at the same moment
WARNING_SECONDS = 3600.0  # between two equal events; a cluster keeps an event for an hour
# The name of each change in events.
REASONS = {Reason.UP: "ScaledUp", Reason.DOWN: "ScaledDown", Reason.BOUNDS: "ScaledToBounds", Reason.DONE: "ScaledToZero"}

_log = logging.getLogger(__name__)


class ControllerLoop:
    """Looks at the fleet every few seconds until `stop` is set. The caller makes and closes everything that it uses."""

    def __init__(
        self,
        config: Config,
        spec: ScalingSpec,
        cluster: Cluster,
        deployment: str,
        fleet: FleetClient,
        election: Election,
        metrics: ControllerMetrics,
        stop: threading.Event,
        *,
        name: str,
        interval_seconds: float,
        dry_run: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            deployment: the name of the actors' Deployment.
            name: the name of this process, for events.
            dry_run: only log what would be done.
        """
        self._config, self._spec, self._cluster, self._deployment = config, spec, cluster, deployment
        self._fleet, self._election, self._metrics, self._stop = fleet, election, metrics, stop
        self._name, self._interval, self._dry_run, self._clock = name, interval_seconds, dry_run, clock
        self._history, self._memory = History(history_seconds(spec)), Memory()
        self._said: tuple[Reason, int, str] | None = None
        self._warned_time: float | None = None
        self._absent = False

    def run(self, on_answer: Callable[[], None]) -> None:
        """Runs until `stop` is set. Calls `on_answer` after each round in which the API server answered.

        Raises:
            RunError: the API server refuses what the controller needs.
        """
        while not self._stop.is_set():
            try:
                self.look()
                on_answer()
            except ApiUnavailable as error:
                self._metrics.api_failures.inc()
                _log.warning("%s; trying again in %g s", error, self._interval)
            self._stop.wait(self._interval)
        self._election.resign()

    def look(self) -> Decision:
        """One round: makes a decision, carries it out if this process leads, and returns it.

        Raises:
            ApiUnavailable: the API server does not answer; nothing was decided.
            RunError: it refuses what the controller needs.
        """
        self._election.campaign()
        scale = self._cluster.scale(self._deployment)
        reading = self._read(scale.replicas)
        decision = reconcile(Observed(self._history.add(reading), self._memory), self._spec)
        self._memory = decision.memory
        self._show(reading, decision)
        self._say(scale, decision)
        self._warn(scale, decision)
        if decision.actors != scale.replicas and self._election.is_leader and not self._dry_run:
            self._carry_out(scale, decision)
        return decision

    def _read(self, actors_wanted: int) -> LoadReading:
        try:
            status = self._fleet.status()
        except CoordinatorUnavailable as error:
            self._metrics.coordinator_failures.inc()
            if not self._absent:  # once per outage
                _log.warning("%s; nothing is scaled until it answers", error)
            self._absent = True
            return no_answer(self._clock(), actors_wanted, "the coordinator does not answer")
        if self._absent:
            _log.info("the coordinator is back")
        self._absent = False
        # The coordinator's config: values derived from run.env_steps stay as they were when the run began.
        return read(status, config_of(status) or self._config, self._clock(), actors_wanted)

    def _carry_out(self, scale: Scale, decision: Decision) -> None:
        """Scales the Deployment and posts an event, unless someone else has set another number meanwhile."""
        before = scale.replicas
        for _ in range(PATCH_ATTEMPTS):
            if not self._election.is_leader:  # the calls before may have taken long
                return
            try:
                self._cluster.set_scale(self._deployment, decision.actors, scale.resource_version)
                break
            except ApiConflict as conflict:
                self._metrics.conflicts.inc()
                _log.info("%s; looking again", conflict)
                scale = self._cluster.scale(self._deployment)
            if scale.replicas != before:
                _log.info("someone else has set %d actors meanwhile: leaving it at that", scale.replicas)
                return
        else:
            _log.warning("gave up after %d conflicts; trying again in %g s", PATCH_ATTEMPTS, self._interval)
            return
        self._metrics.changes.labels(decision.why.value).inc()
        message = f"Scaled actors from {before} to {decision.actors}: {decision.reason}"
        _log.info("%s", message)
        self._post(scale.uid, REASONS[decision.why], message, warning=False)

    def _say(self, scale: Scale, decision: Decision) -> None:
        """Logs a decision if it is new."""
        # The numbers in a reason change every time, so they do not make it new.
        new = (decision.why, decision.actors, re.sub(r"[\d.,%]+", "", decision.reason))
        if new == self._said:
            return
        self._said = new
        if decision.actors != scale.replicas:
            if self._dry_run or not self._election.is_leader:
                would = "dry run: would scale" if self._dry_run else "standing by: the leader should scale"
                _log.info("%s actors from %d to %d: %s", would, scale.replicas, decision.actors, decision.reason)
            return
        _log.info("leaving the number of actors at %d: %s", scale.replicas, decision.reason)

    def _warn(self, scale: Scale, decision: Decision) -> None:
        """Posts an event if the learner starves and no more actors are allowed."""
        if decision.why is not Reason.LIMITED or self._dry_run or not self._election.is_leader:
            return
        if self._warned_time is None or self._clock() - self._warned_time >= WARNING_SECONDS:
            self._warned_time = self._clock()
            self._post(scale.uid, "ScaleLimited", decision.reason, warning=True)

    def _post(self, uid: str, reason: str, message: str, warning: bool) -> None:
        """Posts an event. A failure is only logged, because the change itself stands."""
        try:
            self._cluster.post_event(self._deployment, uid, reason, message, self._name, warning)
        except RunError as error:
            self._metrics.api_failures.inc()
            _log.warning("no event: %s", error)

    def _show(self, reading: LoadReading, decision: Decision) -> None:
        metrics = self._metrics
        metrics.looks.inc()
        metrics.actors_wanted.set(reading.actors_wanted)
        metrics.actors_live.set(reading.actors_live)
        metrics.actors_desired.set(decision.actors)
        metrics.leader.set(self._election.is_leader)
        metrics.held.set(decision.why is Reason.HOLD)
        metrics.limited.set(decision.why is Reason.LIMITED)
        metrics.queue_fill_ratio.set(reading.queue_fill)
        if decision.measured is not None and decision.load is not None:
            metrics.load_ratio.set(decision.load)
            metrics.learner_waiting_ratio.set(decision.measured.learner_waiting)
            metrics.actors_blocked_ratio.set(decision.measured.actors_blocked)
