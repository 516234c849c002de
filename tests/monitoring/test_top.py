"""The view of a fleet in `sbrl top`."""

from __future__ import annotations

import pytest
from rich.console import Console

from sbrl.config import build, dump
from sbrl.errors import UsageError
from sbrl.monitor.run_status import config_of
from sbrl.monitor.top import doing, members_panel
from sbrl.v1.fleet_pb2 import GetStatusResponse, Member

QUEUE = {"log_segments": 1000, "log_capacity": 5000, "queue_segments": 3, "memory_used_bytes": 2**31}
ACTOR = Member(role="actor", name="actor-0", alive=True, counters={"env_steps": 1200, "episodes": 3, "blocked_seconds": 65})
SHARD = Member(role="replay", name="replay-0", seconds_since_heartbeat=45, gauges=QUEUE)
TRAINING = {"loss": 0.0123, "shards_ready": 2, "memory_transitions": 9000}
LEARNER = Member(role="learner", name="learner", alive=True, counters={"updates": 300}, gauges=TRAINING)


@pytest.mark.parametrize(
    ("member", "shown"),
    [
        (ACTOR, "1,200 steps, 3 episodes, weights v0, waited 1m 05s"),
        (SHARD, "1,000 of 5,000 segments, 3 waiting for the learner, 2.0 GiB"),
        (LEARNER, "300 updates, 9,000 transitions, loss 0.0123, waited 0s, 2 shards answer"),
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
    assert drawn.index("replay-0") < drawn.index("actor-0") < drawn.index("300 updates")
    gone = next(line for line in drawn.splitlines() if "replay-0" in line)
    assert "gone" in gone


def test_the_coordinator_says_what_the_run_is_meant_to_be() -> None:
    config = build({"run": {"env_steps": 7000}, "learner": {"batch_size": 32, "updates_per_step": 0.5}})
    assert config_of(GetStatusResponse(config=dump(config))) == config
    assert config_of(GetStatusResponse()) is None
    with pytest.raises(UsageError, match=r"unknown key 'learner\.batch_sizes'"):
        config_of(GetStatusResponse(config="learner: {batch_sizes: 3}"))
