"""Behavior of role programs that the chart's pods rely on: liveness while a role waits, and --stay."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from sbrl.config import build, dump
from sbrl.coordination.fleet import FleetClient
from sbrl.rpc.health import LIVENESS
from sbrl.telemetry.metrics import CoordinatorMetrics
from services.coordinator.server import Coordinator

LIMIT = 60.0


class Evaluator:
    """An evaluator's process, its log line by line, and its health service."""

    def __init__(self, directory, address, *arguments):
        path = directory / "run.yaml"
        path.write_text(
            dump(build({"env": {"id": "CartPole-v1"}, "network": {"coordinator_address": address}})), encoding="utf-8"
        )
        command = [sys.executable, "-P", "-m", "services.evaluator", "--config", str(path), *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.lines = []
        self._killer = threading.Timer(LIMIT, self.process.kill)
        self._killer.start()
        self.health_address = self.wait_for(r"health on (\S+),")[1]

    def wait_for(self, pattern):
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"no {pattern!r} in {self.lines}")

    def status(self, service):
        with grpc.insecure_channel(self.health_address) as channel:
            request = health_pb2.HealthCheckRequest(service=service)
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=LIMIT)
            return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)

    def close(self):
        self._killer.cancel()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def coordinator(tmp_path):
    metrics = CoordinatorMetrics(CollectorRegistry())
    coordinator = Coordinator(tmp_path / "coordinator", metrics, settle=lambda before: build({}))
    yield f"127.0.0.1:{coordinator.start('127.0.0.1', 0)}"
    coordinator.stop(0.1)


@pytest.fixture
def evaluator(tmp_path):
    started = []

    def start(address, *arguments):
        started.append(Evaluator(tmp_path, address, *arguments))
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_a_role_that_waits_for_others_is_alive_and_not_ready(evaluator):
    waiting = evaluator("127.0.0.1:1")
    assert waiting.status(LIVENESS) == "SERVING"
    assert waiting.status("") == "NOT_SERVING"


def test_a_role_told_to_stay_outlives_its_run_until_it_is_stopped(evaluator, coordinator):
    client = FleetClient(coordinator)
    client.finish()
    staying = evaluator(coordinator, "--stay")
    staying.wait_for("nothing more to do: staying until told to stop")
    assert staying.process.poll() is None
    assert staying.status("") == staying.status(LIVENESS) == "SERVING"
    assert not any(member.alive for member in client.status().members)  # it has left the fleet
    client.close()
    start = time.monotonic()
    staying.process.send_signal(signal.SIGTERM)
    assert staying.process.wait(LIMIT) == 0
    assert time.monotonic() - start < 10
