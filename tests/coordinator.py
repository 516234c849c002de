"""A coordinator in the test's process, over real gRPC, and the requests that tests send it."""

from __future__ import annotations

import time
from contextlib import contextmanager

import numpy as np
from prometheus_client import CollectorRegistry
from safetensors.numpy import save

from sbrl.config import load
from sbrl.coordination.fleet import FleetClient
from sbrl.coordination.membership import FleetMember
from sbrl.rpc import channels
from sbrl.rpc.credentials import Credentials
from sbrl.telemetry.metrics import CoordinatorMetrics
from sbrl.v1 import fleet_pb2
from services.coordinator.fleet import Fleet
from services.coordinator.server import add_services
from services.coordinator.store import Store
from services.coordinator.weights_store import WeightsStore

TARGET = 3000
WAIT = 10.0
GOOD = save({"w": np.zeros(3, np.float32)})  # weights in published form


class Clock:
    """A clock that advances only on request."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def settled(before):
    """The config of a coordinator whose config does not matter."""
    return load()


@contextmanager
def serve(directory, clock=time.monotonic, port=0, target=TARGET, config="", registry=None):
    """Yields the address of a coordinator over `directory`. Its metrics are in `registry`."""
    store = Store(directory / "state.sqlite")
    metrics = CoordinatorMetrics(registry or CollectorRegistry())
    server = channels.make_server(16, "test", Credentials())
    port = channels.bind(server, "127.0.0.1", port, "test", Credentials())
    fleet = Fleet(store, target, metrics, config, clock=clock)
    add_services(server, store, WeightsStore(directory, store), fleet, metrics)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()
        store.close()


def join(fleet, name, role="actor", **kwargs):
    return fleet.Join(fleet_pb2.JoinRequest(role=role, name=name, **kwargs), timeout=WAIT)


def pass_time(clock, fleet, seconds):
    """Advances the clock second by second and calls the coordinator each time, or it would think that it was stopped."""
    while seconds > 0:
        clock.now += min(1.0, seconds)
        seconds -= 1.0
        fleet.GetStatus(fleet_pb2.GetStatusRequest(), timeout=WAIT)


def heartbeat(fleet, lease, step_limit=0, **counters):
    request = fleet_pb2.HeartbeatRequest(incarnation=lease.incarnation, counters=counters, step_limit=step_limit)
    return fleet.Heartbeat(request, timeout=WAIT)


def totals(address):
    client = FleetClient(address)
    try:
        return dict(client.status().totals)
    finally:
        client.close()


def member(address, name, counters, role="actor"):
    return FleetMember(address, role, name, counters=lambda: dict(counters))
