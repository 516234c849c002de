"""Decisions of `sbrl train` before it starts anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sbrl.config import Config, load
from sbrl.errors import RunError, UsageError
from sbrl.local.launch import check_resumable_with, check_trainable, place, role_commands
from sbrl.storage.run_directory import RunDirectory


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
        ("replay.sampling=remote", "replay.sampling"),
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
        *(
            "env.on_bad_value=drop_episode",
            "learner.batch_size=32",
            "learner.updates_per_step=1",
            "replay.capacity=5000",
            "replay.ahead=500",
        ),
    )
    check_resumable_with(before, after)


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


@pytest.mark.parametrize(
    ("there", "trained", "env_steps", "is_refused"),
    [
        ((), 0, 10_000, True),
        (("learner/updates-000000000010",), 80, 10_000, True),
        (("learner/updates-000000000010",), 20_000, 10_000, False),
        ((), 20_000, 10_000, True),  # trained, and the network is lost
        (("replay-1/2026",), 0, 10_000, False),
        ((), 0, 9_000, False),  # there is more to collect
    ],
)
def test_what_can_never_be_complete_is_refused(
    tmp_path: Path, there: tuple[str, ...], trained: int, env_steps: int, is_refused: bool
) -> None:
    directory = RunDirectory(tmp_path)
    for name in there:
        (directory.checkpoints / name).mkdir(parents=True)
    directory.summary.write_text(json.dumps({"env_steps": env_steps, "samples_due": 20_000, "samples_trained": trained}))
    if is_refused:
        with pytest.raises(RunError, match=r"of the 20,000 samples"):
            check_trainable(config(), directory)
    else:
        check_trainable(config(), directory)
