"""One real run of all roles for the tests in this folder."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from sbrl.coordination.fleet_watch import total
from sbrl.v1.fleet_pb2 import GetStatusResponse
from tests.monitoring.promql import ROOT
from tests.smoke.conftest import FAST, LocalRun, member

START_SECONDS = 300.0  # about ten seconds on an idle machine, minutes on a shared one
NAMES = ("coordinator", "replay-0", "replay-1", "learner", "actor-0", "evaluator")


@pytest.fixture(scope="session", autouse=True)
def prometheus() -> None:
    """prometheus and promtool, fetched the first time where they are not installed."""
    done = subprocess.run([ROOT / "scripts/prometheus.sh"], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="package")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRun]:
    """A run that has trained, evaluated and saved, and continues as long as tests need it."""
    local_run = LocalRun(
        tmp_path_factory.mktemp("monitoring") / "run",
        "--prometheus",
        *FAST,
        "run.env_steps=100000000",
        "run.checkpoint_interval_seconds=5",
        "learner.diagnostics_period=100",
        "replay.min_size=500",
        "replay.capacity=100000",
        "replay.checkpoint_interval_seconds=5",
        "actors.num_actors=1",
        "evaluator.interval_env_steps=500",
    )
    try:
        local_run.wait_for(is_under_way, "run that trains, evaluates and saves", START_SECONDS)
        yield local_run
    finally:
        local_run.kill()  # the kernel stops its roles; they need not save anything


def is_under_way(status: GetStatusResponse) -> bool:
    """Whether every role has done everything once."""
    counted = ("learner.checkpoints", "learner.diagnostics", "replay.checkpoints", "evaluator.evaluations", "actor.episodes")
    return all(member(status, name.partition("-")[0], name) for name in NAMES) and all(
        total(status, name) >= 1 for name in counted
    )
