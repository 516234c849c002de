"""A coordinator on a free port, its clock and its clients."""

from __future__ import annotations

import pytest

from sbrl import rpc
from sbrl.v1 import fleet_pb2_grpc
from sbrl.weights import WeightsClient
from tests.coordinator import Clock, serve


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
    with rpc.open_channel(address) as channel:
        yield fleet_pb2_grpc.FleetStub(channel)


@pytest.fixture
def weights(address):
    client = WeightsClient(address)
    yield client
    client.close()
