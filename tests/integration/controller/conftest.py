"""A controller with the rights that the chart grants, and the fleet that it scales."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from sbrl.telemetry.metrics import CoordinatorMetrics
from services.coordinator.server import Coordinator
from tests.integration.controller.harness import CONFIG, Clock, Controller, Fleet


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def address(tmp_path):
    metrics = CoordinatorMetrics(CollectorRegistry())
    coordinator = Coordinator(tmp_path / "coordinator", metrics, settle=lambda before: CONFIG)
    port = coordinator.start("127.0.0.1", 0)
    yield f"127.0.0.1:{port}"
    coordinator.stop(0)


@pytest.fixture
def fleet(address, clock) -> Fleet:
    fleet = Fleet(address, clock)
    fleet.join(3)
    return fleet


@pytest.fixture
def controller(api, tmp_path, address, clock):
    made: list[Controller] = []

    def make(**kwargs) -> Controller:
        made.append(Controller(api, tmp_path, address, clock, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.cluster.close()
