"""What `sbrl top` shows of a fleet."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry
from rich.console import Console

from sbrl.config import load
from sbrl.errors import RunError
from sbrl.metrics import CoordinatorMetrics
from sbrl.top import config_of, doing, members_panel
from sbrl.v1.fleet_pb2 import GetStatusResponse, Member
from services.coordinator.__main__ import export_settings

ACTOR = Member(role="actor", name="actor-0", alive=True, counters={"env_steps": 1200, "episodes": 3, "blocked_seconds": 65})
SHARD = Member(role="replay", name="replay-0", seconds_since_beat=45, gauges={"transitions": 1000, "capacity": 5000})
LEARNER = Member(
    role="learner", name="learner", alive=True, counters={"updates": 300}, gauges={"loss": 0.0123, "shards_ready": 2}
)


@pytest.mark.parametrize(
    ("member", "shown"),
    [
        (ACTOR, "1,200 steps, 3 episodes, weights v0, waited 1m 05s"),
        (SHARD, "1,000 of 5,000 transitions"),
        (LEARNER, "300 updates, loss 0.0123, waited 0s, 2 shards answer"),
        (
            Member(role="evaluator", counters={"evaluations": 2}, gauges={"return_mean": 7.25}),
            "2 evaluations, the last with 7.2",
        ),
        (Member(role="coordinator"), ""),
    ],
)
def test_a_member_is_shown_with_what_it_does(member: Member, shown: str) -> None:
    assert shown in doing(member)


def test_members_are_listed_with_their_leases() -> None:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(members_panel(GetStatusResponse(members=[LEARNER, ACTOR, SHARD])))
    drawn = capture.get()
    assert drawn.index("replay-0") < drawn.index("actor-0") < drawn.index("learner")
    gone = next(line for line in drawn.splitlines() if "replay-0" in line)
    assert "gone" in gone


def test_what_the_coordinator_exports_is_enough_for_the_view() -> None:
    config = load(
        overrides=[
            "run.env_steps=7000",
            "replay.min_size=400",
            "replay.num_shards=3",
            "learner.batch_size=32",
            "learner.updates_per_step=0.5",
        ]
    )
    metrics = CoordinatorMetrics(CollectorRegistry())
    export_settings(config, metrics)
    status = GetStatusResponse(members=[Member(role="coordinator", name="coordinator", gauges=metrics.gauges())])
    seen = config_of(status)
    assert seen.run.env_steps == 7000
    assert seen.min_replay_size == 400
    assert seen.replay.num_shards == 3
    assert seen.learner.batch_size == 32
    assert seen.learner.updates_per_step == 0.5
    with pytest.raises(RunError, match="--config"):
        config_of(GetStatusResponse())
