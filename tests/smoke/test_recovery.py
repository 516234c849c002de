"""Runs whose processes are killed, and that go on from their checkpoints: the ratio holds and the books balance."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from sbrl.fleet_watch import total
from sbrl.v1.fleet_pb2 import GetStatusResponse, Member
from tests.smoke.conftest import FAST, LocalRun, member

START_SECONDS = 120.0
RECOVER_SECONDS = 90.0
RUN_SECONDS = 240.0
OFTEN = ("replay.checkpoint_interval_seconds=3", "run.checkpoint_interval_seconds=4")

pytestmark = pytest.mark.timeout(600)


def test_a_run_that_was_killed_as_a_whole_goes_back_to_one_generation(start_run: Callable[..., LocalRun]) -> None:
    """And goes on at another ratio, batch size and capacity from there."""
    first = start_run(*FAST, *OFTEN, "run.env_steps=1000000", "replay.min_size=500", "replay.capacity=2000")
    status = first.wait_for(
        lambda status: len(status.generations) > 1 and total(status, "learner.updates") > 150, "generations", START_SECONDS
    )
    first.kill_all()
    newest = status.generations[-1]
    target = newest.env_steps + 1500
    second = start_run(
        *("--resume", f"run.env_steps={target}", "learner.batch_size=4", "learner.updates_per_step=1", "replay.capacity=1000")
    )
    resumed = second.wait_for(
        lambda status: status.timeline == 1 and total(status, "learner.updates") > 0 and shards_report(status),
        "start",
        START_SECONDS,
    )
    assert resumed.generations[-1].generation >= newest.generation
    assert second.wait(RUN_SECONDS) == 0, second.text() + second.logs()
    summary = second.summary()
    assert target <= summary["env_steps"] < target + 8
    assert summary["transitions_collected"] == summary["transitions_inserted"] + summary["transitions_dropped"]
    assert summary["samples_served"] == summary["samples_trained"] + summary["samples_discarded"]
    assert summary["samples_trained"] == pytest.approx(summary["samples_due"], abs=2 * 4)
    found = re.search(r"going on from generation (\d+), made at (\d+) env steps", second.log("coordinator"))
    assert found is not None
    base, steps = map(int, found.groups())
    assert base >= newest.generation
    # Two samples an insertion up to the generation, four from there.
    assert summary["samples_due"] == (steps - 500) * 2 + (summary["transitions_inserted"] - steps) * 4
    shards = [find_member(resumed, f"replay-{shard}").gauges for shard in range(2)]
    assert [shard["capacity"] for shard in shards] == [500, 500]
    assert all(shard["transitions"] <= 500 for shard in shards)


def shards_report(status: GetStatusResponse) -> bool:
    """Whether both shards are there with their readings."""
    found = [member(status, "replay", f"replay-{shard}") for shard in range(2)]
    return all(one is not None and "capacity" in one.gauges and one.gauges["capacity"] > 0 for one in found)


def find_member(status: GetStatusResponse, name: str) -> Member:
    found = member(status, "replay", name)
    assert found is not None
    return found
