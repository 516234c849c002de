"""The coordinator's program as pods and local runs start it: health, metrics, SIGTERM, kill -9 and a taken port."""

import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager

import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from safetensors.numpy import save

from sbrl.config import build, dump
from sbrl.coordination.fleet import FleetClient
from sbrl.coordination.membership import FleetMember
from sbrl.coordination.weights import WeightsClient
from sbrl.rpc import channels
from sbrl.rpc.health import is_serving

LIMIT = 30.0
FAILING_ROLE = """
import threading
from prometheus_client import CollectorRegistry
from sbrl.config import build
from sbrl.runtime.lifecycle import RoleRuntime
from sbrl.telemetry.logs import Context
from sbrl.runtime.program import run_program

def main(argv):
    context = Context("actor", "actor-0", "run")
    with RoleRuntime(context, build({}), CollectorRegistry(), health_port=0, metrics_port=0) as runtime:
        threading.Thread(target=lambda: 1 / 0, name="publisher").start()
        assert runtime.stop.wait(20)
        print("drained")

run_program(main)
"""


def write_config(directory, port):
    path = directory / "run.yaml"
    path.write_text(dump(build({"network": {"coordinator_address": f"127.0.0.1:{port}"}})))
    return path


def command(directory, port, *arguments):
    config = write_config(directory, port)
    return [sys.executable, "-m", "services.coordinator", "--config", str(config), "--run-dir", str(directory), *arguments]


@contextmanager
def program(directory, port=0, *arguments):
    """Yields a serving coordinator and its three addresses: itself, health and metrics. It lives for at most LIMIT."""
    with subprocess.Popen(command(directory, port, *arguments), stderr=subprocess.PIPE, text=True) as process:
        killer = threading.Timer(LIMIT, process.kill)
        killer.start()
        try:
            assert process.stderr is not None
            lines = []
            for line in process.stderr:
                lines.append(line)
                if " serving on " in line:
                    break
            found = re.search(r"health on (\S+), metrics on (\S+)\n.* serving on (\S+);", "".join(lines), re.DOTALL)
            assert found, lines
            yield process, (found[3], found[1], found[2])
        finally:
            killer.cancel()
            process.kill()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_program_serves_and_drains(tmp_path, stop):
    with program(tmp_path) as (process, (address, health_address, metrics_url)):
        with channels.open_channel(health_address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=LIMIT)
            answers = (health_pb2.HealthCheckResponse.ServingStatus.Name(response.status) for response in watch)
            assert "SERVING" in answers  # consumed up to it, whatever came before
            member = FleetMember(address, "actor", "a", counters=lambda: {"env_steps": 12})
            member.send_heartbeat()
            member.send_heartbeat()
            metrics = urllib.request.urlopen(metrics_url, timeout=LIMIT).read().decode()
            assert "sbrl_coordinator_env_steps 12.0" in metrics
            assert 'sbrl_coordinator_live_members{role="actor"} 1.0' in metrics
            assert re.search(r'sbrl_build_info\{.*role="coordinator".*\} 1.0', metrics)
            process.send_signal(stop)
            process.send_signal(stop)  # a second one does not break the drain
            assert next(answers) == "NOT_SERVING"
        assert process.wait(LIMIT) == 0
        log = process.stderr.read()
        assert f" INFO {tmp_path.name} coordinator received {stop.name}: draining" in log
        assert "Traceback" not in log
        assert not is_serving(health_address, timeout=1.0)


def test_killed_program_comes_back_with_all_it_knew(tmp_path):
    port, data = free_port(), save({"w": np.ones(5, np.float32)})
    counters = {"env_steps": 0}
    with program(tmp_path, port) as (process, (address, _, _)):
        weights = WeightsClient(address)
        term, _ = weights.acquire_term("test")
        weights.publish(data, term, updates=1)
        member = FleetMember(address, "actor", "a", counters=lambda: counters)
        member.send_heartbeat()
        counters["env_steps"] = 40
        member.send_heartbeat()
        incarnation = member.incarnation
        process.kill()
        process.wait(LIMIT)
    with program(tmp_path, port) as (_, (address, _, _)):
        client = FleetClient(address)
        status = client.status()
        assert status.totals["actor.env_steps"] == 40
        assert (status.learner_term, status.weights_version) == (term, 1)
        fetched = weights.fetch()
        assert fetched is not None
        assert fetched.data == data
        counters["env_steps"] = 50
        assert member.send_heartbeat().env_steps == 50
        assert member.incarnation == incarnation
        other = FleetMember(address, "actor", "b", counters=dict)
        other.send_heartbeat()
        assert other.incarnation > incarnation
        for used in (client, weights):
            used.close()


@pytest.mark.parametrize("taken", ["coordinator", "health service", "metrics"])
def test_taken_port_is_one_line_and_exit_code_1(tmp_path, taken):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        arguments = {"health service": ["--health-port", str(port)], "metrics": ["--metrics-port", str(port)]}.get(taken, [])
        argv = command(tmp_path, port if taken == "coordinator" else 0, *arguments)
        result = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert result.returncode == 1
    errors = [line for line in result.stderr.splitlines() if " INFO " not in line]
    assert len(errors) == 1, result.stderr
    assert re.match(rf"sbrl: error: cannot listen on 127.0.0.1:{port} for (the )?{taken}", errors[0])


def test_second_coordinator_on_one_directory_is_refused(tmp_path):
    with program(tmp_path):
        result = subprocess.run(command(tmp_path, 0), capture_output=True, text=True, timeout=LIMIT, check=False)
    assert result.returncode == 1
    assert "sbrl: error:" in result.stderr
    assert "in use by another coordinator" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_role_whose_thread_fails_drains_and_ends_with_exit_code_1(tmp_path):
    """Otherwise it would look alive: it answers and sends its counts although a part of it is gone."""
    role = tmp_path / "role.py"
    role.write_text(FAILING_ROLE)
    done = subprocess.run([sys.executable, role], capture_output=True, text=True, timeout=LIMIT, check=False)
    assert (done.returncode, done.stdout) == (1, "drained\n"), done.stderr
    assert "thread publisher failed: draining" in done.stderr
    assert "ZeroDivisionError" in done.stderr
