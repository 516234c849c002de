"""A learner's checkpoint with a coordinator that does not know the run: refused by the first process that sees it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from learner.algorithm.update import make_update_step
from learner.checkpoint import CheckpointStore, SavedLearner, capture_random
from sbrl.config import build, dump
from sbrl.coordination.fleet import FleetClient
from sbrl.envs.make import make_spec
from sbrl.replay.receipts import Receipts
from sbrl.storage.run_directory import RunDirectory
from sbrl.telemetry.metrics import CoordinatorMetrics
from services.coordinator.server import Coordinator
from tests.coordinator import settled
from tests.smoke.conftest import sbrl

pytestmark = pytest.mark.timeout(180)
SECONDS = 90.0
COUNTERS: dict[str, int | float] = {"samples_trained": 320, "max_priority": 1.0, "env_steps": 200}


def with_checkpoint(path: Path, coordinator: str) -> RunDirectory:
    """A run directory with a config and one checkpoint of its learner."""
    config = build(
        {
            "env": {"id": "CartPole-v1"},
            "agent": {"hidden_size": 8, "num_quantiles": 4},
            "network": {"coordinator_address": coordinator, "replay_addresses": ["127.0.0.1:9", "127.0.0.1:10"]},
        }
    )
    path.mkdir()
    directory = RunDirectory(path)
    directory.config.write_text(dump(config), encoding="utf-8")
    state = make_update_step(config, make_spec(config.env)).state()._replace(updates=40)
    received = {"ratio": {"received": 200, "due": 320.0, "trained": 320}, "receipts": Receipts().state()}
    CheckpointStore(directory.learner_checkpoints, keep=1).save(SavedLearner(state, COUNTERS, capture_random(), received))
    return directory


def test_the_learner_takes_no_term_in_a_run_that_is_not_its_own(tmp_path: Path) -> None:
    coordinator = Coordinator(tmp_path / "new", CoordinatorMetrics(CollectorRegistry()), settled)
    address = f"127.0.0.1:{coordinator.start('127.0.0.1', 0)}"
    try:
        directory = with_checkpoint(tmp_path / "run", address)
        command = [sys.executable, "-m", "learner", "--config", str(directory.config), "--run-dir", str(directory.path)]
        for _ in range(2):  # nor when it is started again
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
            assert done.returncode == 1, done.stderr
            for words in ("40 updates", f"coordinator at {address}", str(directory.learner_checkpoints), "put"):
                assert words in done.stderr
            assert "Traceback" not in done.stderr
        client = FleetClient(address)
        assert client.status().learner_term == 0
        client.close()
    finally:
        coordinator.stop(0)


def test_no_run_is_resumed_without_what_its_coordinator_knew(tmp_path: Path) -> None:
    directory = with_checkpoint(tmp_path / "run", "127.0.0.1:11")
    done = sbrl("train", "--resume", "--run-dir", str(directory.path))
    assert done.returncode == 2, done.stderr
    for words in (f"{directory.coordinator} is missing or empty", "accounts"):
        assert words in done.stderr
    assert not directory.coordinator.exists()
