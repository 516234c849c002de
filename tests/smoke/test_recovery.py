"""Runs whose processes are killed and that resume from checkpoints: the ratio holds and the accounts balance."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from learner.checkpoint import CheckpointStore
from sbrl.coordination.fleet_watch import total
from sbrl.storage.checkpoints import list_checkpoints
from sbrl.storage.run_directory import RunDirectory
from tests.smoke.conftest import FAST, LocalRun

START_SECONDS = 120.0
RUN_SECONDS = 240.0
OFTEN = ("replay.checkpoint_interval_seconds=3", "run.checkpoint_interval_seconds=4")

pytestmark = pytest.mark.timeout(600)


def test_a_run_that_was_killed_as_a_whole_goes_on_from_each_roles_checkpoint(start_run: Callable[..., LocalRun]) -> None:
    """It then continues with another ratio, batch size and capacity."""
    first = start_run(*FAST, *OFTEN, "run.env_steps=1000000", "replay.min_size=500", "replay.capacity=2000")
    checkpoints = RunDirectory(first.directory).learner_checkpoints
    status = first.wait_for(
        lambda status: status.progress.updates > 150 and bool(list_checkpoints(checkpoints)), "checkpoint", START_SECONDS
    )
    first.kill_all()
    saved = CheckpointStore(checkpoints, keep=1).load_newest()
    assert saved is not None
    ratio = saved.received["ratio"]
    target = int(total(status, "actor.env_steps")) + 4000  # more than the steps until the kill
    second = start_run(
        *("--resume", f"run.env_steps={target}", "learner.batch_size=4", "learner.updates_per_step=1", "replay.capacity=1000")
    )
    # In whole segments.
    resumed = second.wait_for(lambda status: 1000 <= status.progress.memory_capacity < 1100, "start", START_SECONDS)
    assert resumed.progress.updates >= saved.update.updates
    assert total(resumed, "actor.env_steps") >= total(status, "actor.env_steps")
    assert second.wait(RUN_SECONDS) == 0, second.text() + second.logs()
    assert f"going on from update {saved.update.updates}\n" in second.log("learner")
    summary = second.summary()
    assert target <= summary["env_steps"] < target + 8
    assert summary["env_steps"] == summary["transitions_received"] + summary["transitions_lost"]
    assert summary["transitions_in_flight"] == 0
    # Two samples a transition up to the checkpoint, four from there.
    assert summary["samples_due"] == ratio["due"] + (summary["transitions_received"] - max(500, ratio["received"])) * 4
    assert abs(summary["samples_trained"] - summary["samples_due"]) <= 4 / 2
    assert summary["samples_trained"] == ratio["trained"] + 4 * (summary["updates"] - saved.update.updates)
