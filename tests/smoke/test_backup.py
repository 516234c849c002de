"""A run is backed up while it trains, is lost, and resumes elsewhere: nothing is counted twice or forgotten."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from sbrl.coordination.fleet_watch import total
from sbrl.storage.checkpoints import list_checkpoints
from sbrl.storage.run_directory import RunDirectory
from tests.smoke.conftest import FAST, LocalRun, sbrl
from tests.smoke.test_recovery import OFTEN, RUN_SECONDS, START_SECONDS

pytestmark = pytest.mark.timeout(600)


def test_a_run_that_is_lost_goes_on_elsewhere_from_its_backup(start_run: Callable[..., LocalRun], tmp_path: Path) -> None:
    first = start_run(*FAST, *OFTEN, "run.env_steps=1000000", "replay.min_size=500", "replay.capacity=2000")
    run, backups, elsewhere = RunDirectory(first.directory), tmp_path / "backups", tmp_path / "elsewhere"
    before = first.wait_for(
        lambda status: (
            status.progress.updates > 50
            and bool(list_checkpoints(run.learner_checkpoints))
            and any(run.replay_checkpoints(0).glob("checkpoint-*"))
        ),
        "checkpoints of learner and shard",
        START_SECONDS,
    )
    for name in ("a", "b", "c"):
        done = sbrl("backup", str(run.path), str(backups), "--keep", "2", "--name", name)
        assert done.returncode == 0, done.stderr
    assert first.is_running
    assert sorted(path.name for path in backups.iterdir()) == ["b", "c"]
    (saved,) = (backups / "c/learner/checkpoints/learner").iterdir()
    first.kill_all()
    done = sbrl("restore", str(backups), str(elsewhere))
    assert done.returncode == 0, done.stderr
    assert f"{backups}/c: " in done.stdout
    with closing(sqlite3.connect(elsewhere / "coordinator/state.sqlite")) as connection:
        counted = connection.execute("SELECT SUM(json_extract(counters, '$.env_steps')) FROM leases WHERE role = 'actor'")
        (steps,) = counted.fetchone()
        (leases,) = connection.execute("SELECT MAX(incarnation) FROM leases").fetchone()
    assert steps >= total(before, "actor.env_steps")
    target = int(steps) + 1500
    second = LocalRun(elsewhere, "--resume", f"run.env_steps={target}")
    try:
        assert second.wait(RUN_SECONDS) == 0, second.text() + second.logs()
    finally:
        second.close()
    assert f"going on from update {int(saved.name.removeprefix('updates-'))}\n" in second.log("learner")
    assert f"incarnation {leases + 1}" in "".join(path.read_text() for path in (elsewhere / "logs").glob("*.log"))
    summary = second.summary()
    assert target <= summary["env_steps"] < target + 8
    assert summary["env_steps"] == summary["transitions_received"] + summary["transitions_lost"]
    assert summary["transitions_in_flight"] == 0
    assert abs(summary["samples_trained"] - summary["samples_due"]) <= 8 / 2
    assert json.loads((backups / "c/backup.json").read_text())["format"] == 1
