"""The controller's loop between a real coordinator and a stand-in for the Kubernetes API that speaks real HTTP."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry

from sbrl.cluster.kube import connect
from sbrl.config import build
from sbrl.coordination.fleet import FleetClient
from sbrl.coordination.membership import FleetMember
from sbrl.coordination.weights import WeightsClient
from sbrl.telemetry.metrics import ControllerMetrics
from sbrl.v1.fleet_pb2 import LEARNER_STATE_TRAINING, LearnerProgress, ShardProgress
from services.controller.election import LeaseElection, Unopposed
from services.controller.loop import ControllerLoop
from services.controller.reconcile import Reason, ScalingSpec
from tests.integration.kubernetes_stand_in import ApiStandIn, Call, Refused

ACTORS = "sbrl-actors"
SPEC = ScalingSpec(min_actors=1, max_actors=8, settle_seconds=10, urgent_window_seconds=20, window_seconds=60)
CONFIG = build({"run": {"env_steps": 100_000}, "replay": {"num_shards": 1, "min_size": 1000}})
# The rights that the chart grants, and no more.
RULES = [
    {"apiGroups": ["apps"], "resources": ["deployments/scale"], "resourceNames": [ACTORS], "verbs": ["get", "patch"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": ["sbrl"], "verbs": ["get", "update"]},
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
]


def begin_learner(address: str) -> int:
    """Acquires a term, which a learner needs to report progress."""
    with contextlib.closing(WeightsClient(address)) as weights:
        return weights.acquire_term("learner-0")[0]


class Clock:
    """A clock that advances only on request."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Fleet:
    """A run's members, which report what a test wants to the coordinator."""

    address: str
    clock: Clock
    waiting: float = 0.0  # fraction of the learner's time
    blocked: float = 0.0  # fraction of the actors' time
    updates: int = 0
    learner: dict[str, float] = field(default_factory=lambda: {"blocked_seconds.replay": 0.0})
    counters: list[dict[str, float]] = field(default_factory=list)  # of the actors
    members: list[FleetMember] = field(default_factory=list)

    def join(self, actors: int) -> None:
        learner = self._add("learner", "learner-0", self.learner)
        learner.hold_term(begin_learner(self.address))
        learner.report_progress(self.progress)
        self._add("replay", "replay-0", {}, self.queue)
        for k in range(actors):
            self.counters.append({"env_steps": 0.0, "blocked_seconds.replay": 0.0})
            self._add("actor", f"actor-{k}", self.counters[-1])

        for member in self.members:
            member.send_heartbeat()

    def _add(
        self, role: str, name: str, counters: dict[str, float], gauges: Callable[[], dict[str, float]] = dict
    ) -> FleetMember:
        self.members.append(FleetMember(self.address, role, name, counters=lambda: counters, gauges=gauges))
        self.members[-1].send_heartbeat()
        return self.members[-1]

    def queue(self) -> dict[str, float]:
        """The queue's gauges: empty if the learner waits, full if actors do."""
        return {"queue_segments": 0.0 if self.waiting > self.blocked else 8.0, "queue_capacity": 8.0}

    def progress(self) -> LearnerProgress:
        shards = [ShardProgress(received=5000, answers=True)]
        return LearnerProgress(updates=self.updates, shards=shards, state=LEARNER_STATE_TRAINING)

    def live(self, seconds: float) -> None:
        self.clock.now += seconds
        self.updates += round(10 * seconds)
        self.learner["blocked_seconds.replay"] += self.waiting * seconds
        for counters in self.counters:
            counters["blocked_seconds.replay"] += self.blocked * seconds
        for member in self.members:
            member.send_heartbeat()


class Controller:
    """A loop with the rights that the chart grants."""

    def __init__(self, api: ApiStandIn, tmp_path, address, clock, *, lease=False, name="sbrl-controller-a", **kwargs):
        api.rules["controller"] = kwargs.pop("rules", RULES)
        self.cluster = connect(api.kubeconfig(tmp_path / f"{name}.yaml", "controller"), None, None)
        self.registry, self.stop = CollectorRegistry(), threading.Event()
        self.election = LeaseElection(self.cluster, "sbrl", name, clock=clock) if lease else Unopposed()
        arguments: dict[str, Any] = {"spec": SPEC, "dry_run": False} | kwargs
        self.loop = ControllerLoop(
            config=CONFIG,
            cluster=self.cluster,
            deployment=ACTORS,
            fleet=FleetClient(address),
            election=self.election,
            metrics=ControllerMetrics(self.registry),
            stop=self.stop,
            name=name,
            interval_seconds=5.0,
            clock=clock,
            **arguments,
        )

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"sbrl_controller_{name}", labels)


def replicas(api: ApiStandIn) -> int:
    return int(api.get("deployments", ACTORS)["spec"]["replicas"])


def look_for(controller: Controller, fleet: Fleet, seconds: int):
    """Looks every five seconds until the controller changes something; returns the last decision."""
    for _ in range(0, seconds, 5):
        decision = controller.loop.look()
        if decision.why in (Reason.UP, Reason.DOWN):
            return decision
        fleet.live(5)
    return decision


def answer(code: int, only: str = "") -> object:
    def before(call: Call) -> None:
        if only in call.resource:
            raise Refused(code, "Test", "as the test wants it")

    return before
