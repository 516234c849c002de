"""`sbrl train` with all roles as real processes: its results, and its survival of kills."""

from __future__ import annotations

import csv
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from sbrl.coordination.fleet_watch import total
from sbrl.monitor.observation import processes_of
from sbrl.storage.metadata import run_id_of
from sbrl.v1.fleet_pb2 import GetStatusResponse
from tests.smoke.conftest import FAST, POLL_SECONDS, LocalRun, kill, member, sbrl

START_SECONDS = 90.0
RECOVER_SECONDS = 60.0
RUN_SECONDS = 180.0
STOP_SECONDS = 30.0

pytestmark = pytest.mark.timeout(420)


def test_a_run_leaves_everything_the_readme_names(start_run: Callable[..., LocalRun]) -> None:
    run = start_run(*FAST, "run.env_steps=3000", "run.seed=3", "replay.min_size=500")
    assert run.wait(RUN_SECONDS) == 0, run.text() + run.logs()
    summary = run.summary()
    assert summary["complete"] is True
    assert 3000 <= summary["env_steps"] < 3008
    assert summary["frames"] == summary["env_steps"]
    assert summary["transitions_received"] == summary["env_steps"]
    assert [summary[f"transitions_{name}"] for name in ("lost", "in_flight", "duplicate")] == [0, 0, 0]
    assert summary["sampling"] == "cached"
    assert summary["samples_trained"] == 8 * summary["updates"]
    assert summary["samples_due"] == 2.0 * (summary["transitions_received"] - 500)
    assert abs(summary["samples_trained"] - summary["samples_due"]) <= 8 / 2
    assert summary["samples_per_insert_target"] == 2.0
    assert summary["samples_per_insert_achieved"] == pytest.approx(2.0, rel=0.01)
    assert summary["updates_per_step_achieved"] == pytest.approx(0.25, rel=0.01)
    assert summary["eval_episodes"] == 2
    config = yaml.safe_load((run.directory / "run.yaml").read_text(encoding="utf-8"))
    assert config["run"]["seed"] == 3
    assert config["metadata"]["versions"]["torch"] != "not installed"
    with (run.directory / "episodes.csv").open(encoding="utf-8") as file:
        episodes = list(csv.DictReader(file))
    assert len(episodes) == summary["train_episodes"] > 0
    with (run.directory / "evaluations.csv").open(encoding="utf-8") as file:
        assert float(list(csv.DictReader(file))[-1]["return_mean"]) == summary["eval_return_mean"]
    for name in ("learning_curve.png", "video.gif"):
        assert (run.directory / name).stat().st_size > 1000, name
    assert list((run.directory / "tensorboard").iterdir())
    assert {log.stem for log in (run.directory / "logs").glob("*.log")} >= {
        *("coordinator", "replay-0", "replay-1", "learner", "actor-0", "evaluator")
    }
    again = sbrl("train", "--run-dir", str(run.directory), *FAST)
    assert again.returncode == 2
    assert "is not empty" in again.stderr
    assert run.summary() == summary


def test_kill_9_of_a_role_is_told_and_of_the_launcher_ends_all(start_run: Callable[..., LocalRun]) -> None:
    """Every role is killed in tests/chaos/test_short.py."""
    run = start_run(*FAST, "run.env_steps=1000000", "replay.min_size=500", "replay.capacity=100000")
    run.wait_for(lambda status: total(status, "learner.updates") > 100, "first updates", START_SECONDS)
    kill_and_await_recovery(run, "actor-0")
    last = run.wait_for(lambda status: len(status.members) > 0, "last status", RECOVER_SECONDS)
    run.kill()
    wait_until_gone([one.process_id for one in last.members if one.alive], RECOVER_SECONDS)


def wait_until_gone(process_ids: list[int], timeout: float) -> None:
    """Polls until all these processes are gone. They are not our children, so we cannot wait for them."""
    deadline = time.monotonic() + timeout
    while living := [process_id for process_id in process_ids if Path(f"/proc/{process_id}/cmdline").exists()]:
        assert time.monotonic() < deadline, f"processes {living} outlived their launcher"
        time.sleep(POLL_SECONDS)


def kill_and_await_recovery(run: LocalRun, name: str) -> None:
    """Kills a role's process; returns once its successor is there and actors and learner have continued."""
    role = name.partition("-")[0]
    before = run.wait_for(lambda status: member(status, role, name) is not None, f"live {name}", RECOVER_SECONDS)
    victim = member(before, role, name)
    assert victim is not None
    kill(victim.process_id)

    def is_back(status: GetStatusResponse) -> bool:
        found = member(status, role, name)
        return found is not None and found.process_id != victim.process_id

    back = run.wait_for(is_back, f"return of {name}", RECOVER_SECONDS)
    steps, updates = total(back, "actor.env_steps"), total(back, "learner.updates")
    run.wait_for(
        lambda status: total(status, "actor.env_steps") > steps + 200 and total(status, "learner.updates") > updates + 50,
        f"progress of actors and learner after {name} was killed",
        RECOVER_SECONDS,
    )
    assert f"{name} died (signal SIGKILL)" in run.text()


def test_interrupted_run_resumes_where_it_stopped(start_run: Callable[..., LocalRun]) -> None:
    first = start_run(*FAST, "run.env_steps=1000000", "replay.min_size=500", "replay.capacity=100000")
    first.wait_for(lambda status: total(status, "learner.updates") > 100, "first updates", START_SECONDS)
    in_use = sbrl("train", "--resume", "--run-dir", str(first.directory))
    assert in_use.returncode == 1
    assert "in use by process" in in_use.stderr
    first.interrupt()
    assert first.wait(RUN_SECONDS) == 130
    stopped, run_id = first.summary(), run_id_of(first.directory / "run.yaml")
    assert f"Go on with: sbrl train --resume --run-dir {first.directory}" in first.text()
    target = stopped["env_steps"] + 1500
    second = start_run("--resume", f"run.env_steps={target}")
    assert second.wait(RUN_SECONDS) == 0, second.text() + second.logs()
    assert run_id_of(second.directory / "run.yaml") == run_id, "a run that is resumed is the same run"
    log = (second.directory / "logs" / "learner.log").read_text(encoding="utf-8")
    assert all(f" {run_id} learner " in line for line in log.splitlines())
    summary = second.summary()
    assert target <= summary["env_steps"] < target + 8
    assert summary["updates"] > stopped["updates"]
    assert summary["train_episodes"] > stopped["train_episodes"]
    assert summary["wall_seconds"] > stopped["wall_seconds"]
    assert summary["samples_per_insert_achieved"] == pytest.approx(2.0, rel=0.01)
    complete = sbrl("train", "--resume", "--run-dir", str(first.directory))
    assert complete.returncode == 2
    assert "is complete" in complete.stderr


def test_sigterm_to_all_at_once_stops_in_order(tmp_path: Path) -> None:
    """Service managers and batch systems stop a run like this. Here, nobody reads its output any more."""
    run = LocalRun(tmp_path / "run", *FAST, "run.env_steps=1000000", "replay.min_size=500", has_reader=False)
    try:
        run.wait_for(
            lambda status: total(status, "learner.updates") > 100 and any(one.role == "evaluator" for one in status.members),
            "first updates and the evaluator, who comes after them",
            START_SECONDS,
        )
        start = time.monotonic()
        for process_id in (run.process_id, *(process.process_id for process in processes_of(run.directory))):
            os.kill(process_id, signal.SIGTERM)
        assert run.wait(STOP_SECONDS) == 130
        assert time.monotonic() - start < STOP_SECONDS
        assert processes_of(run.directory) == []
    finally:
        run.close()
    for name in ("learner", "replay-0", "replay-1"):
        assert "INFO" in (saved := run.log(name).rpartition("draining")[2]), name
        assert " checkpoint " in saved, f"{name} saved nothing:\n{saved}"
    for name in ("coordinator", "replay-0", "replay-1", "learner", "actor-0", "evaluator"):
        assert run.log(name).count(" health on ") == 1, f"{name} was started again"
    summary = run.summary()
    assert not summary["complete"]
    assert summary["env_steps"] == sum(summary[f"transitions_{name}"] for name in ("received", "lost", "in_flight"))
    # They are in the shards' queues, from which a resumed run continues. A shard that ends before the actors loses theirs.
    assert summary["transitions_in_flight"] >= 0
    for name in ("episodes.csv", "evaluations.csv", "learning_curve.png"):
        assert (run.directory / name).stat().st_size > 0, name
