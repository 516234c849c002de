"""Addresses to listen on: which exist, and the errors for those that do not."""

from __future__ import annotations

import socket

import pytest

from sbrl import config
from sbrl.coordination.fleet import FleetClient
from sbrl.errors import UsageError
from sbrl.local.launch import place
from sbrl.rpc import channels
from sbrl.rpc.credentials import Credentials
from sbrl.rpc.ports import host_port, split_address
from sbrl.telemetry.metrics import CoordinatorMetrics, make_registry
from services.coordinator.server import Coordinator
from tests.coordinator import settled


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


def tree(host: str) -> config.Config:
    return config.build({"env": {"id": "CartPole-v1"}, "network": {"bind_host": host}})


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1", "2001:db8::1", "[::1]", "a..b", "", "127.0.0.1:80"])
def test_a_host_that_nothing_can_listen_on_is_named_with_the_reason(host: str):
    server = channels.make_server(1, "test", Credentials())
    for try_it in (lambda: place(tree(host)), lambda: channels.bind(server, host, 0, "coordinator", Credentials())):
        with pytest.raises(UsageError, match=r"network\.bind_host=") as error:
            try_it()
        assert repr(host) in str(error.value)
        assert "127.0.0.1" in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("host", "port", "address"), [("127.0.0.1", 80, "127.0.0.1:80"), ("pod", 1, "pod:1"), ("::1", 65535, "[::1]:65535")]
)
def test_an_address_is_joined_and_split(host: str, port: int, address: str):
    assert host_port(host, port) == address
    assert split_address(address) == (host, port)
    assert config.build({"network": {"coordinator_address": address}}).network.coordinator_address == address


@needs_ipv6
@pytest.mark.parametrize("host", ["::1", "::"])
def test_a_run_can_be_placed_on_ipv6(host: str, tmp_path):
    placed = place(tree(host)).network
    for address in (placed.coordinator_address, *placed.replay_addresses):
        assert address.startswith(f"[{host}]:")
    server = Coordinator(tmp_path, CoordinatorMetrics(make_registry("coordinator")), settled)
    try:
        port = server.start(host, split_address(placed.coordinator_address)[1])
        for address in (placed.coordinator_address, channels.reachable_address(host, port)):
            client = FleetClient(address)
            assert not client.status(timeout=10.0).members
            client.close()
    finally:
        server.stop(grace=0)
