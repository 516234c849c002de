"""Clients that begin to publish and then send nothing block others only briefly."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from safetensors.numpy import save

from sbrl.coordination.membership import FleetMember
from sbrl.coordination.weights import WeightsClient
from sbrl.rpc import channels
from sbrl.rpc.channels import CoordinatorUnavailable
from sbrl.v1 import weights_pb2, weights_pb2_grpc
from services.coordinator import server
from tests.coordinator import serve

WAIT = 30.0


def test_stalled_publications_leave_heartbeats_alone_and_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PUBLICATION_SECONDS", 3.0)
    finish = threading.Event()

    def stall(sent: threading.Event) -> Iterator[weights_pb2.PublishRequest]:
        yield weights_pb2.PublishRequest(header=weights_pb2.WeightsHeader(term=1, size_bytes=100))
        sent.set()
        finish.wait(WAIT)

    with serve(tmp_path) as address, channels.open_channel(address) as channel:
        stub, weights = weights_pb2_grpc.WeightsStub(channel), WeightsClient(address)
        term, _ = weights.acquire_term("learner")
        begun = [threading.Event() for _ in range(server.MAX_PUBLICATIONS)]
        stalled = [stub.Publish.future(stall(sent), timeout=WAIT) for sent in begun]
        assert all(sent.wait(WAIT) for sent in begun)
        data = save({"w": np.zeros(4, np.float32)})
        with pytest.raises(CoordinatorUnavailable, match="others are publishing: try again"):
            weights.publish(data, term, updates=1)
        member = FleetMember(address, "actor", "a", counters=dict)
        member.send_heartbeat()
        for call in stalled:
            assert call.exception(WAIT).code() is grpc.StatusCode.CANCELLED
        assert weights.publish(data, term, updates=1) == 1
        finish.set()
        member.leave()
        weights.close()
