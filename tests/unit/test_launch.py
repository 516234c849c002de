"""What `sbrl train` decides before it starts anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from sbrl.config import Config, load
from sbrl.errors import UsageError
from sbrl.launch import check_resumable_with, place, role_commands
from sbrl.run_directory import RunDirectory


def config(*overrides: str) -> Config:
    return load(overrides=["run.env_steps=10000", *overrides])


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("env.id=ALE/Breakout-v5", "env.id"),
        ("env.kwargs={size: 4}", "env.kwargs"),
        ("agent.n_step=5", "agent.stored_steps"),
        ("agent.hidden_size=64", "agent.hidden_size"),
        ("replay.num_shards=3", "replay.num_shards"),
        ("replay.min_size=500", "replay.min_size"),
        ("replay.prioritized=false", "replay.prioritized"),
    ],
)
def test_a_resumed_run_keeps_what_it_was_made_with(override: str, field: str) -> None:
    with pytest.raises(UsageError, match="cannot become") as error:
        check_resumable_with(config("env.id=CartPole-v1"), config("env.id=CartPole-v1", override))
    assert field in str(error.value)


def test_a_resumed_run_may_go_on_longer_and_at_another_ratio() -> None:
    before = config("agent.n_max=5")
    after = config(
        *("agent.n_max=5", "agent.n_step=2", "learner.learning_rate=1e-5", "learner.num_threads=2"),
        *("learner.batch_size=32", "learner.updates_per_step=1", "replay.capacity=5000", "replay.error_buffer=500"),
    )
    check_resumable_with(before, after)


def test_only_a_resumed_run_goes_back_to_a_generation() -> None:
    placed = place(config())
    new, resumed = (role_commands(placed, RunDirectory(Path("run")), resume)[0].arguments for resume in (None, 17))
    assert "--resume" not in new
    assert list(resumed[-2:]) == ["--resume", "17"]


def test_place_chooses_a_port_for_each_server_and_actors_for_the_machine() -> None:
    placed = place(config("replay.num_shards=3"))
    addresses = [placed.network.coordinator_address, *placed.network.replay_addresses]
    assert len(set(addresses)) == 4
    assert all(int(address.rpartition(":")[2]) > 0 for address in addresses)
    assert placed.actors.num_actors is not None
    names = [command.name for command in role_commands(placed, RunDirectory(Path("run")))]
    assert names[:5] == ["coordinator", "replay-0", "replay-1", "replay-2", "learner"]
    assert names[-1] == "evaluator"


def test_place_refuses_one_port_for_all_processes() -> None:
    with pytest.raises(UsageError, match=r"network\.metrics_port=9000"):
        place(config("network.metrics_port=9000"))
