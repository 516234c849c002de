"""Threads that call the coordinator end before their connection is closed: no call starts on a closed one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from actors.weights import WeightsFollower
from sbrl.coordination.fleet import FleetClient
from sbrl.coordination.fleet_watch import FleetWatch
from sbrl.coordination.weights import FetchedWeights, WeightsClient
from sbrl.telemetry.metrics import CoordinatorMetrics
from sbrl.v1.fleet_pb2 import GetStatusResponse
from services.coordinator.server import Coordinator
from tests.coordinator import settled

LATE_SECONDS = 0.2
WAIT = 10.0


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The exceptions that ended threads."""
    found: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda failed: found.append(repr(failed.exc_value)))
    return found


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    served = Coordinator(tmp_path, CoordinatorMetrics(CollectorRegistry()), settled)
    port = served.start("127.0.0.1", 0)
    yield f"127.0.0.1:{port}"
    served.stop(0.0)


class LateFleet(FleetClient):
    """Its calls start a moment after their thread has last checked whether to stop."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.asked = threading.Event()

    def status(self, timeout: float = 5.0, wait: bool = False) -> GetStatusResponse:
        self.asked.set()
        threading.Event().wait(LATE_SECONDS)
        return super().status(timeout, wait)


class LateWeights(WeightsClient):
    """Like LateFleet."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.asked = threading.Event()

    def fetch(self, newer_than_version: int = 0, timeout: float = 30.0) -> FetchedWeights | None:
        self.asked.set()
        threading.Event().wait(LATE_SECONDS)
        return super().fetch(newer_than_version, timeout)


def wait_until_ended(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(WAIT)
            assert not thread.is_alive()


def test_an_actor_that_ends_while_the_run_goes_on_closes_its_weights_last(address: str, failures: list[str]) -> None:
    client = LateWeights(address)
    follower = WeightsFollower(client, interval_seconds=60.0)
    follower.start()
    assert client.asked.wait(WAIT)
    follower.close()
    wait_until_ended("weights")
    assert failures == []


def test_a_watch_that_is_stopped_asks_no_more(address: str, failures: list[str]) -> None:
    client = LateFleet(address)
    watch = FleetWatch(client, interval_seconds=60.0)
    watch.start()
    assert client.asked.wait(WAIT)
    watch.stop()
    client.close()
    wait_until_ended("fleet-watch")
    assert failures == []
