"""The coordinator's service for weights over real gRPC, through the clients that the roles use."""

import time
import zlib
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from safetensors.numpy import save

from sbrl.coordination import weights as client_of_weights
from sbrl.coordination.fleet import FleetClient
from sbrl.coordination.weights import StaleTermError, WeightsClient
from sbrl.rpc import channels
from sbrl.rpc.channels import CoordinatorUnavailable
from sbrl.v1 import weights_pb2, weights_pb2_grpc
from services.coordinator import fleet, leases, weights_store
from tests.coordinator import GOOD, WAIT


def test_ten_megabytes_go_round(weights):
    data = save({"w": np.arange(2_621_440, dtype=np.float32)})
    term, newest = weights.acquire_term("test")
    assert newest == 0
    assert weights.fetch() is None
    assert weights.publish(data, term, updates=100) == 1
    fetched = weights.fetch(newer_than_version=0)
    assert (fetched.version, fetched.updates, fetched.data) == (1, 100, data)
    assert fetched.published_time == pytest.approx(time.monotonic(), abs=WAIT)
    assert weights.fetch(newer_than_version=1) is None
    assert weights.acquire_term("test")[1] == 1


@pytest.mark.parametrize("seconds", [-3600.0, 3600.0])
def test_a_clock_that_is_set_makes_no_weights_older_or_newer(weights, address, monkeypatch, seconds):
    term, _ = weights.acquire_term("test")
    weights.publish(GOOD, term, updates=1)
    # Not gRPC's clock, which its deadlines go by.
    clock = SimpleNamespace(time=lambda: time.time() + seconds, monotonic=time.monotonic)
    for module in (fleet, client_of_weights, leases, weights_store):
        monkeypatch.setattr(module, "time", clock)
    client = FleetClient(address)
    assert 0 <= client.status().weights_age_seconds < WAIT
    client.close()
    assert weights.fetch().published_time == pytest.approx(time.monotonic(), abs=WAIT)
    assert weights.publish(GOOD, term, updates=2) == 2


def test_stale_learner_is_fenced(weights):
    data = save({"w": np.zeros(3, np.float32)})
    stale, _ = weights.acquire_term("first")
    term, _ = weights.acquire_term("second")
    assert term == stale + 1
    with pytest.raises(StaleTermError, match="another learner has taken over"):
        weights.publish(data, stale, updates=1)
    assert weights.fetch() is None
    assert weights.publish(data, term, updates=1) == 1


def header(data, **changes):
    fields = {"term": 1, "size_bytes": len(data), "crc32": zlib.crc32(data)} | changes
    return weights_pb2.PublishRequest(header=weights_pb2.WeightsHeader(**fields))


CHUNK = weights_pb2.PublishRequest(chunk=GOOD)


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        pytest.param([], "header", id="nothing"),
        pytest.param([CHUNK], "header", id="no header"),
        pytest.param([header(GOOD, crc32=1), CHUNK], "checksum", id="corrupt"),
        pytest.param([header(GOOD), CHUNK, CHUNK], "bytes", id="too long"),
        pytest.param([header(GOOD)], "bytes", id="too short"),
        pytest.param([header(GOOD, size_bytes=2**60), CHUNK], "size_bytes", id="absurd size"),
        pytest.param([header(b"xyz"), weights_pb2.PublishRequest(chunk=b"xyz")], "safetensors", id="garbage"),
        pytest.param([header(GOOD, updates=2**64 - 1), CHUNK], "updates", id="number out of range"),
    ],
)
def test_malformed_publication_is_refused(address, weights, requests, message):
    weights.acquire_term("test")
    with channels.open_channel(address) as channel, pytest.raises(grpc.RpcError, match=message) as error:
        weights_pb2_grpc.WeightsStub(channel).Publish(iter(requests), timeout=WAIT)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert weights.fetch() is None


def test_absent_coordinator_is_an_error_at_once_and_no_hang():
    client = WeightsClient("127.0.0.1:1")
    started = time.monotonic()
    with pytest.raises(CoordinatorUnavailable, match=r"127\.0\.0\.1:1 "):
        client.fetch(timeout=WAIT)
    assert time.monotonic() - started < WAIT / 2
    client.close()
