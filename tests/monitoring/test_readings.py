"""Metrics that roles export: memory limits, and the coordinator's totals."""

from __future__ import annotations

import math
from pathlib import Path

import psutil
import pytest
from prometheus_client import CollectorRegistry

from sbrl.rpc import channels
from sbrl.rpc.credentials import Credentials
from sbrl.runtime.memory import memory_limit_bytes, memory_used_bytes, resident_bytes
from sbrl.telemetry.metrics import ActorMetrics, CoordinatorMetrics, LearnerMetrics
from sbrl.v1.episodes_pb2 import Episode, Evaluation
from sbrl.v1.fleet_pb2 import HeartbeatRequest, JoinRequest, LearnerProgress, ShardProgress
from services.coordinator.fleet import Fleet
from services.coordinator.server import add_services
from services.coordinator.store import Store
from services.coordinator.weights_store import WeightsStore


def test_memory_is_limited_by_the_nearest_control_group_that_says_so(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    total = psutil.virtual_memory().total
    assert memory_limit_bytes(tmp_path / "none", own) == total, "no control groups at all"
    root = tmp_path / "fs"
    (root / "kubepods" / "pod").mkdir(parents=True)
    own.write_text("1:cpu:/x\n0::/kubepods/pod\n")
    (root / "kubepods" / "pod" / "memory.max").write_text("max\n")
    assert memory_limit_bytes(root, own) == total, "no limit"
    (root / "kubepods" / "memory.max").write_text("2000000\n")
    assert memory_limit_bytes(root, own) == 2_000_000, "that of the group above"
    (root / "kubepods" / "pod" / "memory.max").write_text("1000000\n")
    assert memory_limit_bytes(root, own) == 1_000_000, "its own"
    (root / "memory").mkdir()
    (root / "memory" / "memory.limit_in_bytes").write_text("500000\n")
    assert memory_limit_bytes(root, own) == 500_000, "control groups of version 1"
    assert 1_000_000 < resident_bytes() < total


def test_memory_is_what_the_limits_control_group_counts(tmp_path: Path) -> None:
    """Not the resident size: that includes library pages that another container is charged for."""
    own, root = tmp_path / "cgroup", tmp_path / "fs"
    own.write_text("0::/pod/container\n")
    container = root / "pod" / "container"
    container.mkdir(parents=True)
    assert memory_used_bytes(root, own) == pytest.approx(resident_bytes(), rel=0.2), "no limit but the machine's"
    for folder, current, inactive in ((container, 300_000, 50_000), (container.parent, 700_000, 100_000)):
        (folder / "memory.current").write_text(f"{current}\n")
        (folder / "memory.stat").write_text(f"anon 1\ninactive_anon 7\ninactive_file {inactive}\nactive_file 9\n")
    (container.parent / "memory.max").write_text("1000000\n")
    assert memory_used_bytes(root, own) == 600_000, "of the group above, whose limit it is"
    (container / "memory.max").write_text("900000\n")
    assert memory_used_bytes(root, own) == 250_000
    (root / "memory").mkdir()
    (root / "memory" / "memory.limit_in_bytes").write_text("500000\n")
    (root / "memory" / "memory.usage_in_bytes").write_text("400000\n")
    (root / "memory" / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 30000\n")
    assert memory_used_bytes(root, own) == 370_000, "control groups of version 1"


def test_series_with_known_labels_are_there_from_the_start() -> None:
    registry = CollectorRegistry()
    ActorMetrics(registry)
    LearnerMetrics(registry)
    assert registry.get_sample_value("sbrl_actor_blocked_seconds_total", {"waiting_for": "replay"}) == 0.0
    assert registry.get_sample_value("sbrl_learner_phase_seconds_count", {"phase": "publish"}) == 0.0


def test_heartbeats_carry_no_gauge_with_labels_and_no_histogram() -> None:
    metrics = CoordinatorMetrics(CollectorRegistry())
    assert "env_steps" in metrics.gauges()
    assert not {"run_state", "live_members"} & set(metrics.gauges())
    assert not {"phase_seconds", "phase_seconds_total"} & set(LearnerMetrics(CollectorRegistry()).counters())


def test_the_coordinator_exports_the_run_as_a_whole(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    metrics = CoordinatorMetrics(registry)
    store = Store(tmp_path / "state.sqlite")
    fleet = Fleet(store, target_env_steps=100, metrics=metrics)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"sbrl_coordinator_{name}", labels)

    assert value("run_state", state="running") == 1.0
    assert value("rejoins_total", role="actor") == 0.0
    assert math.isnan(value("updates") or 0.0)
    first = fleet.join(JoinRequest(role="learner", name="learner"))
    fleet.heartbeat(HeartbeatRequest(incarnation=first.incarnation, term=0, counters={"updates": 5, "losses_not_finite": 1}))
    second = fleet.join(JoinRequest(role="learner", name="learner"))
    term = store.acquire_term("learner")
    progress = LearnerProgress(
        updates=7,
        samples_trained=56,
        samples_due=60.5,
        shards=[ShardProgress(received=40, lost=5, recovered=2), ShardProgress(received=20)],
        lost_with_actors=1,
    )
    fleet.heartbeat(HeartbeatRequest(incarnation=second.incarnation, term=term, counters={"updates": 2}, progress=progress))
    actor = fleet.join(JoinRequest(role="actor", name="actor-0"))
    fleet.heartbeat(HeartbeatRequest(incarnation=actor.incarnation, counters={"env_steps": 100}))
    assert value("env_steps") == 100.0
    assert value("updates") == 7.0
    assert value("losses_not_finite") == 1.0
    assert value("samples_trained") == 56.0
    assert value("samples_due") == 60.5
    assert value("transitions_received") == 60.0
    assert value("transitions_lost") == 4.0
    assert value("rejoins_total", role="learner") == 1.0
    assert value("run_state", state="collected") == 1.0
    assert value("run_state", state="running") == 0.0
    fleet.finish()
    assert value("run_state", state="finished") == 1.0
    store.close()


def test_returns_and_evaluations_survive_the_coordinator(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.sqlite")

    def exported() -> CollectorRegistry:
        registry = CollectorRegistry()
        metrics = CoordinatorMetrics(registry)
        server = channels.make_server(1, "test", Credentials())
        fleet = Fleet(store, 100, metrics)
        add_services(server, store, WeightsStore(tmp_path, store), fleet, metrics)
        return registry

    none_yet = exported().get_sample_value("sbrl_coordinator_episode_return_mean")
    assert none_yet is not None
    assert math.isnan(none_yet)
    store.append_episodes([Episode(incarnation=1, number=k, episode_return=value) for k, value in enumerate((1.0, 3.0))])
    store.append_evaluation(Evaluation(weights_version=1, env_steps=50, return_mean=7.0))
    later = exported()
    assert later.get_sample_value("sbrl_coordinator_episode_return_mean") == 2.0
    assert later.get_sample_value("sbrl_coordinator_episode_return_std") == 1.0
    assert later.get_sample_value("sbrl_coordinator_evaluation_env_steps") == 50.0
    assert later.get_sample_value("sbrl_coordinator_evaluation_return_mean") == 7.0
    store.close()
