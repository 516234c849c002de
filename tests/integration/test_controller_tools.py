"""`sbrl status` as a laptop runs it, against a stand-in for the Kubernetes API that speaks real HTTP.

The coordinator behind the forwarded port is a real one.
"""

from __future__ import annotations

import base64
import json
import socket
import tempfile
import threading
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from sbrl.cluster import status
from sbrl.config import build, dump
from sbrl.coordination.membership import FleetMember
from sbrl.errors import RunError
from sbrl.rpc.credentials import CERT_FILE, KEY_FILE, TOKEN_FILE
from sbrl.telemetry.metrics import CoordinatorMetrics
from sbrl.v1.fleet_pb2 import LEARNER_STATE_TRAINING, GetStatusResponse, LearnerProgress, Member, ShardProgress
from services.coordinator.server import Coordinator
from tests.integration.controller.harness import begin_learner
from tests.integration.kubernetes_stand_in import ApiStandIn, labels
from tests.integration.test_credentials import certificate, write  # noqa: F401  # certificate is a fixture

LIMIT = 60.0
TOKEN = "correct-horse-battery-staple"
PORT = 50051  # of the coordinator in its pod
PROGRESS = LearnerProgress(
    updates=1000,
    samples_trained=8000,
    samples_due=8000,
    shards=[ShardProgress(received=5000, answers=True)],
    state=LEARNER_STATE_TRAINING,
)
CONFIG = build(
    {
        "run": {"env_steps": 100_000},
        "replay": {"num_shards": 1, "min_size": 1000},
        "network": {"coordinator_address": f"sbrl-coordinator:{PORT}", "replay_addresses": ["sbrl-replay-0:50052"]},
    }
)


def pod(
    api: ApiStandIn, component: str, name: str, ready: bool = True, restarts: int = 0, phase: str = "Running", **spec: object
) -> None:
    container_state = {"running": {}} if ready else {"waiting": {"reason": "CrashLoopBackOff"}}
    status = {
        "name": component,
        "ready": ready,
        "restartCount": restarts,
        "image": "sbrl",
        "imageID": "sbrl",
        "state": container_state,
    }
    api.put(
        "pods",
        name,
        labels=labels(component),
        spec={"nodeName": "node-1", "containers": [{"name": component}], **spec},
        status={
            "phase": phase,
            "containerStatuses": [status],
            "conditions": [{"type": "Ready", "status": str(ready)}, {"type": "PodScheduled", "status": "True"}],
        },
    )


def release(api: ApiStandIn, tls: bytes | None = None) -> None:
    """Adds the pods, the run's config and its secrets as in the chart."""
    environment = [{"name": TOKEN_FILE, "value": "/etc/sbrl/token/token"}]
    volumes = [
        {"name": "config", "configMap": {"name": "sbrl-run"}},
        {"name": "token", "secret": {"secretName": "sbrl-token", "items": [{"key": "secret-key", "path": "token"}]}},
    ]
    if tls is not None:
        environment += [
            {"name": "SBRL_TLS_CA_FILE", "value": "/etc/sbrl/tls/ca.crt"},
            {"name": "SBRL_TLS_SERVER_NAME", "value": "sbrl-coordinator"},
        ]
        volumes.append({"name": "tls", "projected": {"sources": [{"secret": {"name": "sbrl-tls"}}]}})
        api.put("secrets", "sbrl-tls", data={"ca.crt": base64.b64encode(tls).decode()})
    mounts = [{"name": volume["name"], "mountPath": f"/etc/sbrl/{volume['name']}"} for volume in volumes]
    container = {
        "name": "coordinator",
        "args": ["coordinator", "--config=/etc/sbrl/config/run.yaml", "--name=$(POD_NAME)"],
        "env": environment,
        "volumeMounts": mounts,
    }
    pod(api, "coordinator", "sbrl-coordinator-0", containers=[container], volumes=volumes)
    pod(api, "replay", "sbrl-replay-0")
    pod(api, "actor", "sbrl-actors-1")
    pod(api, "actor", "sbrl-actors-2", ready=False, restarts=4)
    api.put("configmaps", "sbrl-run", data={"run.yaml": dump(CONFIG)})
    api.put("secrets", "sbrl-token", data={"secret-key": base64.b64encode(TOKEN.encode()).decode()})
    event = {"reason": "ScaledUp", "message": "Scaled actors from 2 to 3: because", "lastTimestamp": "2026-01-01T00:00:00Z"}
    where = {"kind": "Deployment", "name": "sbrl-actors"}
    api.put("events", "sbrl-actors.1", involvedObject=where, reportingComponent="sbrl-controller", **event)


@pytest.fixture
def coordinator(api, tmp_path, monkeypatch):
    """Starts a coordinator with the run's token behind its pod's port. A waiting learner sends it heartbeats."""
    stop, started, living = threading.Event(), [], []

    def start() -> None:
        monkeypatch.setenv(TOKEN_FILE, write(tmp_path / "token", TOKEN))
        metrics = CoordinatorMetrics(CollectorRegistry())
        server = Coordinator(tmp_path / "coordinator", metrics, settle=lambda before: CONFIG)
        port = api.ports["sbrl-coordinator-0"] = server.start("127.0.0.1", 0)
        started.append(server)
        member(f"127.0.0.1:{port}")
        for variable in (TOKEN_FILE, CERT_FILE, KEY_FILE):
            monkeypatch.delenv(variable, raising=False)  # the tool gets them from the cluster

    def member(address: str) -> None:
        """A learner that waits half of the time, a shard, and an actor."""
        counts: dict[str, dict[str, float]] = {"learner": {"blocked_seconds.replay": 0.0}, "replay": {}}
        counts["actor"] = {"env_steps": 5000.0, "blocked_seconds.replay": 0.0}
        members = []
        for role, counters in counts.items():
            members.append(FleetMember(address, role, f"{role}-0", counters=counters.copy))
            members[-1].send_heartbeat()
        members[0].hold_term(begin_learner(address))
        members[0].report_progress(lambda: PROGRESS)
        for one in members:
            one.send_heartbeat()

        def live() -> None:
            while not stop.wait(0.2):
                counts["learner"]["blocked_seconds.replay"] += 0.1
                for one in members:
                    one.send_heartbeat()

        living.append(threading.Thread(target=live))
        living[-1].start()

    yield start
    stop.set()
    for thread in living:
        thread.join()
    for server in started:
        server.stop(0)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_status(api, tool, coordinator, monkeypatch, certificate, tls):  # noqa: F811
    if tls:
        monkeypatch.setenv(CERT_FILE, certificate[0])
        monkeypatch.setenv(KEY_FILE, certificate[1])
    release(api, Path(certificate[0]).read_bytes() if tls else None)
    monkeypatch.setenv("SBRL_TLS_SERVER_NAME", "sbrl-coordinator")
    if tls:
        monkeypatch.setenv("SBRL_TLS_CA_FILE", certificate[0])
    coordinator()
    monkeypatch.delenv("SBRL_TLS_SERVER_NAME")
    monkeypatch.delenv("SBRL_TLS_CA_FILE", raising=False)

    said = tool(status.main, "--seconds", "1.5")
    lines = {line.split("  ")[0].strip(): line for line in said.splitlines()}
    assert said.startswith("release sbrl in namespace rl of context test\n")
    assert lines["actor"].split() == ["actor", "1/3", "4"]
    assert lines["coordinator"].split() == ["coordinator", "1/1", "0"]
    assert "  sbrl-actors-2: CrashLoopBackOff, 4 restarts, " in said
    assert "sbrl-actors-1" not in said
    assert "running, 5,000 of 100,000 env steps (5%)" in lines["run"]
    assert "samples per insert 2.0000, target 2; updates per step 0.2500, target 0.25" in lines["ratio"]
    assert "learner waits for actors, " in lines["who waits"]
    assert "1 replay, 1 actor, 1 learner" in lines["members"]
    assert lines["last scaled"].endswith("ago: Scaled actors from 2 to 3: because")


def test_status_for_programs(api, tool, coordinator):
    release(api)
    coordinator()
    tree = json.loads(tool(status.main, "--json", "--seconds", "1.5"))
    assert (tree["release"], tree["state"], tree["actors_wanted"], tree["actors_live"]) == ("sbrl", "running", 3, 1)
    assert 0.1 < tree["learner_waiting_ratio"] <= 1.0
    assert tree["progress"]["samples_per_insert"] == 2.0
    assert {one["name"]: one["state"] for one in tree["pods"]}["sbrl-actors-2"] == "CrashLoopBackOff"


def test_status_leaves_out_what_is_over(api, tool, coordinator):
    """The pod of a test that passed, and one that was evicted and replaced."""
    release(api)
    pod(api, "check", "sbrl-check", ready=False, phase="Succeeded")
    pod(api, "actor", "sbrl-actors-0", ready=False, phase="Failed")
    coordinator()
    tree = json.loads(tool(status.main, "--json", "--seconds", "1.5"))
    assert [one["name"] for one in tree["pods"]] == ["sbrl-actors-1", "sbrl-actors-2", "sbrl-coordinator-0", "sbrl-replay-0"]


def test_gone_is_who_is_silent_in_a_pod_that_is_there():
    rows = [status.PodRow("actor", f"sbrl-actors-{n}", "Ready", 0, 1.0, "node-1") for n in (1, 2)]
    members = [Member(name=f"sbrl-actors-{n}", alive=n == 1) for n in (1, 2, 3)]
    assert status.gone(GetStatusResponse(members=members), rows) == ["sbrl-actors-2"]


@pytest.mark.parametrize(
    ("without", "message"),
    [
        ("secrets", "not allowed to get secrets sbrl-token in namespace rl"),
        (
            "pods/portforward",
            "not allowed to create pods/portforward sbrl-coordinator-0 in namespace rl: pods/portforward .* is forbidden",
        ),
        ("pods", "not allowed to list pods in namespace rl"),
    ],
)
def test_status_without_a_right(api, tool, coordinator, without, message):
    release(api)
    coordinator()
    resources = {"pods", "pods/portforward", "configmaps", "secrets", "events"} - {without}
    api.rules["user"] = [
        {"apiGroups": [""], "resources": sorted(resources), "verbs": ["get", "list", "create"]},
        {"apiGroups": ["apps"], "resources": ["deployments", "deployments/scale"], "verbs": ["get", "list"]},
    ]
    with pytest.raises(RunError, match=message):
        tool(status.main, "--seconds", "1", token="user")


def test_status_while_the_coordinator_is_away(api, tool, capsys):
    pod(api, "actor", "sbrl-actors-1")
    with pytest.raises(RunError, match="the coordinator of release sbrl does not run: it has no pod"):
        tool(status.main)
    assert "actor              1/3" in capsys.readouterr().out  # known values are still shown


def test_status_with_a_token_that_is_not_the_runs(api, tool, coordinator):
    release(api)
    coordinator()
    api.put("secrets", "sbrl-token", data={"secret-key": base64.b64encode(b"another").decode()})
    with pytest.raises(RunError, match="UNAUTHENTICATED: wrong token"):
        tool(status.main)


def test_status_of_a_coordinator_that_does_not_listen(api, tool, coordinator):
    release(api)
    coordinator()
    with socket.create_server(("127.0.0.1", 0)) as free:
        api.ports["sbrl-coordinator-0"] = free.getsockname()[1]
    with pytest.raises(RunError, match="coordinator at the end of the forwarded port is unavailable"):
        tool(status.main)


def test_nothing_of_a_forward_is_left_behind(api, tool, coordinator, tmp_path, monkeypatch):
    release(api)
    coordinator()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    tool(status.main, "--seconds", "1")
    assert list((tmp_path / "tmp").iterdir()) == []
