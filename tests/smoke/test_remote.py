"""A whole run with sampling from Reverb and kills on the way ends with the right ratio and balanced accounts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sbrl.v1.fleet_pb2 import GetStatusResponse
from tests.smoke.conftest import FAST, LocalRun, kill, member

START_SECONDS, RECOVER_SECONDS, RUN_SECONDS = 120.0, 90.0, 240.0
STEPS, MIN_SIZE, SAMPLES_PER_INSERT, BATCH_SIZE = 5000, 500, 2, 8
SETTINGS = (
    *("replay.sampling=remote", f"run.env_steps={STEPS}", f"replay.min_size={MIN_SIZE}", f"learner.batch_size={BATCH_SIZE}"),
    f"learner.updates_per_step={SAMPLES_PER_INSERT / BATCH_SIZE}",
    *("run.checkpoint_interval_seconds=2", "replay.checkpoint_interval_seconds=2"),
)

pytestmark = pytest.mark.timeout(600)


def test_a_remote_run_keeps_ratio_and_books_when_learner_and_shard_are_killed(start_run: Callable[..., LocalRun]) -> None:
    run = start_run(*FAST, *SETTINGS)
    for role, name, updates in (("learner", "learner", 100), ("replay", "replay-0", 300)):
        status = run.wait_for(lambda status: status.progress.updates >= updates, f"{updates} updates", START_SECONDS)  # noqa: B023
        victim = member(status, role, name)
        assert victim is not None
        kill(victim.process_id)
        incarnation = victim.incarnation

        def is_back(status: GetStatusResponse) -> bool:
            found = member(status, role, name)  # noqa: B023
            return found is not None and found.incarnation > incarnation  # noqa: B023

        run.wait_for(is_back, f"{name} that is back", RECOVER_SECONDS)
    assert run.wait(RUN_SECONDS) == 0, run.text() + run.logs()
    summary = run.summary()
    assert (summary["complete"], summary["sampling"], summary["transitions_in_flight"]) == (True, "remote", 0)
    received, trained = summary["transitions_received"], summary["samples_trained"]
    assert summary["env_steps"] == received + summary["transitions_lost"]
    assert summary["samples_due"] == SAMPLES_PER_INSERT * (received - MIN_SIZE)
    assert abs(trained - summary["samples_due"]) <= BATCH_SIZE / 2
