"""The controller's program as its pod starts it, with a real coordinator and a stand-in for the Kubernetes API."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from sbrl.config import build, dump
from sbrl.errors import UsageError
from sbrl.rpc import channels
from sbrl.telemetry.metrics import CoordinatorMetrics
from services.controller.__main__ import main
from services.coordinator.server import Coordinator

LIMIT = 60.0


@pytest.fixture
def command(api, tmp_path):
    """The command line of a controller of three to eight actors, whose API allows all, beside a coordinator."""
    metrics = CoordinatorMetrics(CollectorRegistry())
    coordinator = Coordinator(tmp_path / "coordinator", metrics, settle=lambda before: build({}))
    port = coordinator.start("127.0.0.1", 0)
    config = tmp_path / "run.yaml"
    config.write_text(dump(build({"network": {"coordinator_address": f"127.0.0.1:{port}"}})))
    kubeconfig = api.kubeconfig(tmp_path / "kubeconfig")
    program = [sys.executable, "-m", "services.controller", "--config", str(config), "--name", "controller-a"]
    yield [*program, "--kubeconfig", str(kubeconfig), "--deployment", "sbrl-actors", "--min-actors", "3", "--max-actors", "8"]
    coordinator.stop(0)


def wait_for(condition) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_program_scales_and_drains(api, command):
    api.touch("deployments", "sbrl-actors", replicas=1)
    options = ["--lease", "sbrl-controller", "--interval-seconds", "0.2"]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as process:
        killer = threading.Timer(LIMIT, process.kill)
        killer.start()
        try:
            wait_for(lambda: api.all("events"))
            assert api.get("deployments", "sbrl-actors")["spec"]["replicas"] == 3
            assert api.all("events")[0]["message"] == "Scaled actors from 1 to 3: the bounds are 3 to 8"
            assert api.get("leases", "sbrl-controller")["spec"]["holderIdentity"] == "controller-a"
            assert process.stderr is not None
            lines = [process.stderr.readline() for _ in range(2)]
            found = re.search(r"health on (\S+), metrics on (\S+)\n", "".join(lines))
            assert found, lines
            with channels.open_channel(found[1]) as channel:
                watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=LIMIT)
                answers = (health_pb2.HealthCheckResponse.ServingStatus.Name(response.status) for response in watch)
                assert "SERVING" in answers
                page = urllib.request.urlopen(found[2], timeout=LIMIT).read().decode()
                assert 'sbrl_controller_changes_total{reason="bounds"} 1.0' in page
                process.send_signal(signal.SIGTERM)
                assert next(answers) == "NOT_SERVING"
            assert process.wait(LIMIT) == 0
            assert "Traceback" not in process.stderr.read()
        finally:
            killer.cancel()
            process.kill()
    assert api.get("leases", "sbrl-controller")["spec"]["holderIdentity"] == ""


def test_a_refusal_is_one_line_and_exit_code_1(api, command):
    command += ["--deployment", "another"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert result.returncode == 1
    (line,) = [line for line in result.stderr.splitlines() if " INFO " not in line]
    refused = 'cannot get deployments/scale another in namespace rl: deployments "another" not found'
    assert line == f"sbrl: error: {refused}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--min-actors", "9"], "the controller needs 1 <= min_actors <= max_actors, else there is no size to choose"),
        (["--low-load", "0.95"], "the controller needs 0 < low_load < target_load"),
        (["--interval-seconds", "60"], "--interval-seconds 60 must be more than 0 and at most 15"),
        (["--kubeconfig", "/nowhere"], "cannot reach a cluster: "),
    ],
)
def test_settings_that_cannot_be(api, command, options, message):
    with pytest.raises(UsageError, match=f"^{message}"):
        main([*command[3:], *options])
    assert api.calls == []
