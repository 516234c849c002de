"""The controller's loop between a real coordinator and a stand-in for the Kubernetes API that speaks real HTTP."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from sbrl.config import build
from sbrl.coordination.fleet import FleetClient
from sbrl.coordination.membership import FleetMember
from sbrl.coordination.weights import WeightsClient
from sbrl.errors import RunError
from sbrl.telemetry.metrics import ControllerMetrics, CoordinatorMetrics
from sbrl.v1.fleet_pb2 import LEARNER_STATE_TRAINING, LearnerProgress, ShardProgress
from services.controller.election import LEASE_SECONDS, LeaseElection, Unopposed
from services.controller.kube import ApiUnavailable, Cluster, connect
from services.controller.loop import ControllerLoop
from services.controller.reconcile import Reason, ScalingSpec
from services.coordinator.server import Coordinator
from tests.integration.kubernetes_stand_in import NAMESPACE, ApiStandIn, Call, Refused, stand_in

ACTORS = "sbrl-actors"
SPEC = ScalingSpec(min_actors=1, max_actors=8, settle_seconds=10, urgent_window_seconds=20, window_seconds=60)
CONFIG = build({"run": {"env_steps": 100_000}, "replay": {"num_shards": 1, "min_size": 1000}})
# What the chart grants, and no more.
RULES = [
    {"apiGroups": ["apps"], "resources": ["deployments/scale"], "resourceNames": [ACTORS], "verbs": ["get", "patch"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": ["sbrl"], "verbs": ["get", "update"]},
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
]


def begin_learner(address: str) -> int:
    """An epoch, which a learner that reports progress holds."""
    with contextlib.closing(WeightsClient(address)) as weights:
        return weights.acquire_epoch("learner-0")[0]


class Clock:
    """Seconds that pass only when told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Fleet:
    """A run's members, who tell the coordinator what a test wants them to."""

    address: str
    clock: Clock
    waiting: float = 0.0  # part of the learner's time
    blocked: float = 0.0  # part of the actors' time
    updates: int = 0
    learner: dict[str, float] = field(default_factory=lambda: {"blocked_seconds.replay": 0.0})
    counters: list[dict[str, float]] = field(default_factory=list)  # of the actors
    members: list[FleetMember] = field(default_factory=list)

    def join(self, actors: int) -> None:
        learner = self._add("learner", "learner-0", self.learner)
        learner.hold_epoch(begin_learner(self.address))
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
        """Empty where the learner waits, full where actors do."""
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


@pytest.fixture
def api():
    with stand_in() as api:
        yield api


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def address(tmp_path):
    metrics = CoordinatorMetrics(CollectorRegistry())
    coordinator = Coordinator(tmp_path / "coordinator", CONFIG.run.env_steps, metrics, settle=lambda before: CONFIG)
    port = coordinator.start("127.0.0.1", 0)
    yield f"127.0.0.1:{port}"
    coordinator.stop(0)


@pytest.fixture
def fleet(address, clock) -> Fleet:
    fleet = Fleet(address, clock)
    fleet.join(3)
    return fleet


@pytest.fixture
def controller(api, tmp_path, address, clock):
    made: list[Controller] = []

    def make(**kwargs) -> Controller:
        made.append(Controller(api, tmp_path, address, clock, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.cluster.close()


def replicas(api: ApiStandIn) -> int:
    return int(api.get("deployments", ACTORS)["spec"]["replicas"])


def look_for(controller: Controller, fleet: Fleet, seconds: int):
    """Looks every five seconds until something is changed; returns the last decision."""
    for _ in range(0, seconds, 5):
        decision = controller.loop.look()
        if decision.why in (Reason.UP, Reason.DOWN):
            return decision
        fleet.live(5)
    return decision


# What it does


def test_a_starved_learner_gets_actors_and_an_event_says_why(api, controller, fleet):
    fleet.waiting = 0.5
    one = controller()
    decision = look_for(one, fleet, 60)
    assert (decision.why, replicas(api)) == (Reason.UP, 6)
    assert fleet.clock.now - 1000 == pytest.approx(SPEC.settle_seconds + SPEC.urgent_window_seconds, abs=5)
    (event,) = api.all("events")
    assert (event["reason"], event["type"], event["involvedObject"]["uid"]) == ("ScaledUp", "Normal", f"uid-of-{ACTORS}")
    assert event["message"] == "Scaled actors from 3 to 6: the learner waited 50% of the last 20 s for transitions"
    assert (event["reportingComponent"], event["reportingInstance"]) == ("sbrl-controller", "sbrl-controller-a")
    assert one.metric("changes_total", reason="learner_starved") == 1
    assert one.metric("learner_waiting_ratio") == pytest.approx(0.5, abs=0.01)
    assert one.metric("actors_desired") == 6
    # The new actors have not come: no more are asked for.
    look_for(one, fleet, 120)
    assert replicas(api) == 6


def test_blocked_actors_go(api, controller, fleet):
    fleet.blocked = 0.6
    decision = look_for(controller(), fleet, 200)
    assert (decision.why, replicas(api)) == (Reason.DOWN, 2)
    assert fleet.clock.now - 1000 == pytest.approx(SPEC.settle_seconds + SPEC.window_seconds, abs=5)
    (event,) = api.all("events")
    assert event["message"] == "Scaled actors from 3 to 2: actors were blocked by the learner 60% of the last 60 s"


def test_a_fleet_in_balance_is_left_alone(api, controller, fleet):
    fleet.blocked = 0.07
    look_for(controller(), fleet, 300)
    assert api.writes() == []


def test_a_finished_run_needs_no_actors(api, controller, fleet, address):
    client = FleetClient(address)
    client.finish()
    client.close()
    assert controller().loop.look().why is Reason.DONE
    assert replicas(api) == 0
    assert [event["reason"] for event in api.all("events")] == ["ScaledToZero"]
    assert controller().loop.look().actors == 0  # the API leaves a zero out: it is one all the same
    assert len(api.all("events")) == 1


def test_a_number_beyond_the_bounds_is_brought_within_them(api, controller, fleet):
    api.touch("deployments", ACTORS, replicas=20)
    controller().loop.look()
    assert replicas(api) == SPEC.max_actors


def test_a_shortage_it_may_not_mend_is_told_once_an_hour(api, controller, fleet):
    fleet.waiting = 0.5
    one = controller(spec=SPEC._replace(max_actors=3))
    look_for(one, fleet, 120)
    fleet.waiting, fleet.blocked = 0.0, 0.07  # and again, a little later
    look_for(one, fleet, 60)
    fleet.waiting, fleet.blocked = 0.5, 0.0
    look_for(one, fleet, 60)
    assert replicas(api) == 3
    assert [(event["reason"], event["type"]) for event in api.all("events")] == [("ScaleLimited", "Warning")]
    assert one.metric("limited") == 1
    fleet.live(3600)
    look_for(one, fleet, 120)
    assert len(api.all("events")) == 2


def test_a_dry_run_writes_nothing(api, controller, fleet, caplog):
    caplog.set_level(logging.INFO)
    fleet.waiting = 0.5
    one = controller(dry_run=True, rules=RULES[:1])
    look_for(one, fleet, 60)
    assert one.metric("actors_desired") == 6
    assert "dry run: would scale actors from 3 to 6: the learner waited 50%" in caplog.text
    assert api.writes() == []
    assert one.metric("changes_total", reason="learner_starved") == 0


def test_without_a_coordinator_nothing_is_changed(api, controller, clock, tmp_path, caplog):
    api.touch("deployments", ACTORS, replicas=20)  # beyond the bounds, but the run may be done for all that is known
    one = Controller(api, tmp_path, "127.0.0.1:1", clock)
    assert one.loop.look().reason == "the coordinator does not answer"
    assert one.loop.look().why is Reason.HOLD
    assert api.writes() == []
    assert caplog.text.count("nothing is scaled until it answers") == 1
    assert one.metric("coordinator_failures_total") == 2
    assert one.metric("held") == 1
    one.cluster.close()


# Others write, too, or nobody answers


def interfere(api: ApiStandIn, times: int, **spec: int) -> None:
    """Someone else writes the Deployment just before each of the next patches."""
    left = iter(range(times))

    def before(call: Call) -> None:
        if call.verb == "patch" and next(left, None) is not None:
            api.touch("deployments", ACTORS, **spec)

    api.before = before


def test_a_conflict_is_tried_again(api, controller, fleet):
    api.touch("deployments", ACTORS, replicas=20)
    interfere(api, times=2)
    one = controller()
    one.loop.look()
    assert replicas(api) == SPEC.max_actors
    assert one.metric("conflicts_total") == 2
    assert len(api.all("events")) == 1


def test_what_someone_else_has_set_meanwhile_stands(api, controller, fleet):
    api.touch("deployments", ACTORS, replicas=20)
    interfere(api, times=1, replicas=5)
    controller().loop.look()
    assert replicas(api) == 5
    assert api.all("events") == []


def test_endless_conflicts_are_left_for_the_next_look(api, controller, fleet):
    api.touch("deployments", ACTORS, replicas=20)
    interfere(api, times=1000)
    one = controller()
    one.loop.look()
    assert replicas(api) == 20
    api.before = lambda call: None
    one.loop.look()
    assert replicas(api) == SPEC.max_actors


def answer(code: int, only: str = "") -> object:
    def before(call: Call) -> None:
        if only in call.resource:
            raise Refused(code, "Test", "as the test wants it")

    return before


def test_an_api_server_that_does_not_answer_is_waited_for(api, controller, fleet):
    one = controller()
    api.before = answer(503)
    looks = 0

    def on_wait(seconds: float) -> bool:
        nonlocal looks
        looks += 1
        if looks == 3:
            api.before = lambda call: None
        if looks == 5:
            one.stop.set()
        return bool(one.stop.is_set())

    one.stop.wait = on_wait
    answers = []
    one.loop.run(lambda: answers.append(looks))
    assert answers == [3, 4]
    assert one.metric("api_failures_total") == 3


def test_an_api_server_that_is_not_there_is_no_refusal(api, controller):
    one = controller()
    api.close()
    with pytest.raises(ApiUnavailable, match="does not answer to get deployments/scale sbrl-actors in namespace rl"):
        one.loop.look()


def test_an_event_that_cannot_be_posted_does_not_undo_the_change(api, controller, fleet, caplog):
    api.touch("deployments", ACTORS, replicas=20)
    one = controller(rules=RULES[:1])
    one.loop.look()
    assert replicas(api) == SPEC.max_actors
    assert "no event: not allowed to create events in namespace rl" in caplog.text


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            [{**RULES[0], "verbs": ["get"]}],
            r"not allowed to patch deployments/scale sbrl-actors in namespace rl: .* is forbidden: .*; "
            r"grant the verb 'patch' on 'deployments/scale' to this user or service account",
        ),
        ([], "not allowed to get deployments/scale sbrl-actors"),
        ([{**RULES[0], "resourceNames": ["another"]}], "not allowed to get deployments/scale sbrl-actors"),
    ],
)
def test_a_missing_right_is_named(api, controller, fleet, rules, message):
    api.touch("deployments", ACTORS, replicas=20)
    with pytest.raises(RunError, match=message):
        controller(rules=rules).loop.look()


def test_a_deployment_that_is_not_there_is_named(api, controller, fleet):
    api.rules["controller"] = None
    one = controller(rules=None)
    one.loop._deployment = "nothing"
    with pytest.raises(RunError, match='cannot get deployments/scale nothing in namespace rl: deployments "nothing" not found'):
        one.loop.look()


def test_an_unknown_user_is_told_so(api, controller, fleet):
    one = controller()
    del api.rules["controller"]
    with pytest.raises(RunError, match=r"does not know who wants to get deployments/scale .* log in again"):
        one.loop.look()


# Leaders


def test_only_the_holder_of_the_lease_acts(api, controller, fleet, caplog):
    caplog.set_level(logging.INFO)
    first, second = controller(lease=True), controller(lease=True, name="sbrl-controller-b")
    first.loop.look()
    assert api.get("leases", "sbrl")["spec"]["holderIdentity"] == "sbrl-controller-a"
    api.touch("deployments", ACTORS, replicas=20)
    second.loop.look()
    assert (replicas(api), second.metric("leader"), second.metric("actors_desired")) == (20, 0, 8)
    assert "standing by: the leader should scale actors from 20 to 8" in caplog.text
    first.loop.look()
    assert (replicas(api), first.metric("leader")) == (8, 1)


def test_a_lease_that_is_not_renewed_is_taken_over(api, controller, fleet, clock):
    first, second = controller(lease=True), controller(lease=True, name="sbrl-controller-b")
    first.loop.look()
    second.loop.look()
    clock.now += LEASE_SECONDS - 1
    second.loop.look()
    assert not second.election.is_leader
    assert not first.election.is_leader  # it stops trusting its lease before the other may take it
    clock.now += 1
    second.loop.look()
    assert second.election.is_leader
    lease = api.get("leases", "sbrl")["spec"]
    assert (lease["holderIdentity"], lease["leaseTransitions"]) == ("sbrl-controller-b", 1)
    first.loop.look()
    assert not first.election.is_leader


def test_a_leader_that_stops_lets_another_take_over_at_once(api, controller, fleet):
    first, second = controller(lease=True), controller(lease=True, name="sbrl-controller-b")
    first.loop.look()
    first.stop.set()
    first.loop.run(lambda: None)
    second.loop.look()
    assert second.election.is_leader
    second.election.resign()
    first.election.resign()  # it holds nothing: nothing happens
    assert api.get("leases", "sbrl")["spec"]["holderIdentity"] == ""


def test_of_two_that_take_a_free_lease_one_gets_it(api, controller, fleet):
    first, second = controller(lease=True), controller(lease=True, name="sbrl-controller-b")
    raced = iter([True])

    def before(call: Call) -> None:
        if call.verb == "create" and call.resource == "leases" and next(raced, False):
            second.election.campaign()

    api.before = before
    first.election.campaign()
    assert (first.election.is_leader, second.election.is_leader) == (False, True)


def test_a_leader_is_trusted_through_a_short_outage_only(api, controller, fleet, clock):
    one = controller(lease=True)
    one.election.campaign()
    api.before = answer(500, only="leases")
    clock.now += 10
    one.election.campaign()
    assert one.election.is_leader
    clock.now += 11
    one.election.campaign()
    assert not one.election.is_leader
    api.before = lambda call: None
    one.election.campaign()
    assert one.election.is_leader


def test_leadership_lost_between_look_and_act_changes_nothing(api, controller, fleet, clock):
    api.touch("deployments", ACTORS, replicas=20)
    one = controller(lease=True)

    def before(call: Call) -> None:
        if call.resource == "deployments/scale":
            clock.now += LEASE_SECONDS  # a call that took long

    api.before = before
    one.loop.look()
    assert replicas(api) == 20
    assert [call.resource for call in api.writes()] == ["leases"]


def test_the_rights_of_the_chart_are_all_that_is_used(api, controller, fleet):
    fleet.waiting = 0.5
    one = controller(lease=True)
    look_for(one, fleet, 60)
    one.election.resign()
    used = {(call.verb, call.resource) for call in api.calls}
    granted = {(verb, resource) for rule in RULES for verb in rule["verbs"] for resource in rule["resources"]}
    assert used == granted


def test_namespaces_come_from_the_kubeconfig(api, tmp_path):
    path = api.kubeconfig(tmp_path / "config")
    named: list[Cluster] = [connect(path, None, None), connect(path, "test", "other")]
    assert [(cluster.namespace, cluster.context) for cluster in named] == [(NAMESPACE, "test"), ("other", "test")]
    with pytest.raises(RunError, match="cannot get deployments/scale x in namespace other"):
        named[1].scale("x")
    for cluster in named:
        cluster.close()
