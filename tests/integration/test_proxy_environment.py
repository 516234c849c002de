"""A proxy from environment variables, as on many clusters, gets none of a run's traffic; others still use it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from sbrl.coordination.fleet import FleetClient
from sbrl.coordination.fleet_watch import SILENT_SECONDS, FleetWatch, SilenceNotice
from sbrl.rpc.channels import CoordinatorUnavailable
from sbrl.rpc.ports import free_ports

NAMES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")
# In a process of its own, for what is loaded reads the environment: each kind of a role's traffic once, then what it leaves.
TRAFFIC = """
import os
from prometheus_client import CollectorRegistry, Gauge, start_http_server
from sbrl.rpc.health import HealthServer
from sbrl.monitor.observation import SERVING, health_of, scrape
from sbrl.replay.backend import reverb

health = HealthServer()
port = health.start("127.0.0.1", 0)
health.set_serving()
assert health_of(f"127.0.0.1:{port}", 10.0) == SERVING
registry = CollectorRegistry()
Gauge("answer", "", registry=registry).set(42)
server, _ = start_http_server(0, "127.0.0.1", registry)
assert scrape(f"127.0.0.1:{server.server_port}", 10.0) == {"answer": 42.0}
table = reverb.Table("t", reverb.selectors.Uniform(), reverb.selectors.Fifo(), 10, reverb.rate_limiters.MinSize(1))
shard = reverb.Server([table], port=SHARD_PORT)
for host in ("127.0.0.1", "localhost"):
    client = reverb.Client(f"{host}:{shard.port}")
    assert client.server_info(timeout=10)["t"].current_size == 0
client.insert([1.0], {"t": 1.0})
print([float(sample[0].data[0]) for sample in client.sample("t", 1)])
print(os.environ["http_proxy"], os.environ["HTTPS_PROXY"], os.environ["all_proxy"], flush=True)
os._exit(0)
"""


@pytest.fixture
def proxy() -> Iterator[socket.socket]:
    """Accepts connections and never answers, so a client of it waits."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0)
        yield listener


def test_own_traffic_takes_no_proxy_and_others_keep_theirs(proxy: socket.socket):
    url = f"http://127.0.0.1:{proxy.getsockname()[1]}"
    environment = {**os.environ, **{name: url for lower in NAMES for name in (lower, lower.upper())}}
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        environment.pop(name, None)
    program = TRAFFIC.replace("SHARD_PORT", str(free_ports("127.0.0.1", 1)[0]))
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[1.0]", f"{url} {url} {url}"]
    with pytest.raises(BlockingIOError):  # nobody has called
        proxy.accept()


def test_a_coordinator_that_gives_no_answer_is_said_once_with_address_and_reason(monkeypatch: pytest.MonkeyPatch):
    (port,) = free_ports("127.0.0.1", 1)
    client = FleetClient(f"127.0.0.1:{port}")
    watch = FleetWatch(client, 0.05)
    said: list[str] = []
    notice = SilenceNotice(watch, said.append)
    try:
        notice.look()
        assert not said  # it may still be starting
        with pytest.raises(CoordinatorUnavailable):
            watch.ask()
        monkeypatch.setattr(FleetWatch, "age_seconds", SILENT_SECONDS)
        notice.look()
        notice.look()
        monkeypatch.setattr(FleetWatch, "age_seconds", 0.0)
        notice.look()
    finally:
        client.close()
    first, second = said
    assert f"127.0.0.1:{port}" in first
    assert "refused" in first
    assert second == "the coordinator answers again"
