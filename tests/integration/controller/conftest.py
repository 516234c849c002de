"""A controller with the rights that the chart grants, and the fleet that it scales."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from sbrl.config import build
from sbrl.coordination.fleet import FleetClient
from sbrl.coordination.membership import FleetMember
from sbrl.coordination.weights import WeightsClient
from sbrl.errors import RunError
from sbrl.telemetry.metrics import ControllerMetrics, CoordinatorMetrics
from sbrl.v1.fleet_pb2 import LEARNER_STATE_TRAINING, LearnerProgress, ShardProgress
from services.controller.election import LEASE_SECONDS, LeaseElection, Unopposed
from services.controller.kube import ApiUnavailable, Cluster, connect
from services.controller.loop import ControllerLoop
from services.controller.reconcile import Reason, ScalingSpec
from services.coordinator.server import Coordinator
from tests.integration.kubernetes_stand_in import NAMESPACE, ApiStandIn, Call, Refused, stand_in

from tests.integration.controller.harness import CONFIG, Clock, Controller, Fleet


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def address(tmp_path):
    metrics = CoordinatorMetrics(CollectorRegistry())
    coordinator = Coordinator(tmp_path / "coordinator", CONFIG.run.env_steps, metrics, settle=lambda before: CONFIG)
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
