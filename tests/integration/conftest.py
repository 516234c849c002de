"""A coordinator on a free port, its clock and its clients; a stand-in for the Kubernetes API, and tools that ask it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from sbrl.coordination.weights import WeightsClient
from sbrl.rpc import channels
from sbrl.v1 import fleet_pb2_grpc
from tests.coordinator import Clock, serve
from tests.integration.kubernetes_stand_in import ADMIN, stand_in


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def address(tmp_path, clock):
    with serve(tmp_path, clock) as address:
        yield address


@pytest.fixture
def fleet(address):
    """The raw stub, for requests that no client would make."""
    with channels.open_channel(address) as channel:
        yield fleet_pb2_grpc.FleetStub(channel)


@pytest.fixture
def weights(address):
    client = WeightsClient(address)
    yield client
    client.close()


@pytest.fixture
def api():
    with stand_in() as api:
        yield api


@pytest.fixture
def tool(api, tmp_path, capsys):
    """Runs a tool with a kubeconfig for the stand-in and returns what it prints."""

    def tool(main: Callable[[Sequence[str]], None], *arguments: str, token: str = ADMIN) -> str:
        main(["--kubeconfig", str(api.kubeconfig(tmp_path / "kubeconfig", token)), *arguments])
        return str(capsys.readouterr().out)

    return tool
