"""`sbrl study run` with real runs, made small: to the end, over kills and Ctrl-C, and past runs that fail."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from sbrl import config as configs
from sbrl.storage.run_directory import RunDirectory
from studies.arms import PlannedRun, arms_of, compared_runs
from studies.design import Study, parse_study
from studies.making import Maker, Places
from studies.records import load_records
from tests import bad_env
from tests.smoke.conftest import POLL_SECONDS, sbrl

pytestmark = pytest.mark.timeout(1800)  # half a minute on an idle machine, many on a busy one

ROOT = Path(__file__).parents[2]
BAD_REWARD = "or set env.on_bad_value=drop_episode"  # the end of what its run says

TREE: dict[str, Any] = {
    "name": "tiny",
    "question": "Does the runner work?",
    "preset": "classic-dqn",
    "settings": {
        "agent.hidden_size": 16,
        "agent.epsilon_decay_steps": 100,
        "evaluator.episodes": 1,
        "evaluator.num_envs": 1,
        "learner.diagnostics_period": 100,
        "replay.min_size": 100,
    },
    "environments": ["CartPole-v1"],
    "seeds": {"test": 1},
    "horizons": [200, 400],
    "arms": [{"name": "batch 32"}, {"name": "batch 8", "settings": {"learner.batch_size": 8}}],
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TREE, **changes}))
    return path


def study(command: str, file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    places = ("--results", str(file.parent / "results"), "--work", str(file.parent / "work"))
    return sbrl("study", command, str(file), *(places if command != "show" else ()), *options, timeout=800)


def test_a_study_is_run_once(tmp_path: Path) -> None:
    file = write(tmp_path)
    assert study("status", file).returncode == 1
    done = study("run", file, "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert "2/2 runs are done" in done.stdout
    records = load_records(tmp_path / "results")
    assert [(record.arm, record.status, sorted(record.scores)) for record in records] == [
        ("batch 32", "complete", [200, 400]),
        ("batch 8", "complete", [200, 400]),
    ]
    assert all(record.costs.core_seconds and record.counts.samples_per_insert for record in records)
    assert all(record.diagnostics["feature_rank"] > 0 for record in records)
    assert (tmp_path / "results" / "study.yaml").read_text() == file.read_text()
    assert not list((tmp_path / "work" / "runs").rglob("run.yaml"))  # deleted once recorded

    again = study("run", file)
    assert again.returncode == 0
    assert "2 test runs, 2 of them done before" in again.stdout
    assert load_records(tmp_path / "results") == records
    shown = study("status", file)
    assert shown.returncode == 0
    assert "2 of 2 runs are complete" in shown.stdout

    changed = study("run", write(tmp_path, settings={**TREE["settings"], "agent.n_step": 1}))
    assert changed.returncode == 2
    assert "was made with other settings than the study has now (agent.n_step 5, now 1): take another folder" in changed.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_study_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    file = write(tmp_path, horizons=[1500, 3000])
    command = [sys.executable, "-m", "sbrl.cli", "study", "run", str(file)]
    options = ["--results", str(tmp_path / "results"), "--work", str(tmp_path / "work")]
    with (tmp_path / "out").open("w") as output:
        runner = subprocess.Popen([*command, *options], stdout=output, stderr=subprocess.STDOUT)
    second = tmp_path / "work" / "runs" / "batch-8" / "CartPole-v1" / "seed-0" / "run.yaml"
    wait_for(second.exists, runner, tmp_path / "out")
    at_work = psutil.Process(runner.pid).children(recursive=True)
    assert len(at_work) == 1
    os.kill(runner.pid, number)
    assert runner.wait(120) == (130 if number == signal.SIGINT else -number)
    _, alive = psutil.wait_procs(at_work, timeout=120)
    assert not alive
    assert [record.arm for record in load_records(tmp_path / "results")] == ["batch 32"]
    assert ("the same command goes on from here" in (tmp_path / "out").read_text()) == (number == signal.SIGINT)

    done = study("run", file)
    assert done.returncode == 0, done.stderr
    assert "2 test runs, 1 of them done before" in done.stdout
    assert [record.arm for record in load_records(tmp_path / "results")] == ["batch 32", "batch 8"]


def test_a_run_that_fails_is_retried_once_then_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    environment = bad_env.ENV_ID
    settings = {**TREE["settings"], "actors.envs_per_actor": 1}  # which comes to the bad value
    file = write(tmp_path, environments=[environment, "CartPole-v1"], arms=[{"name": "batch 32"}], settings=settings)
    done = study("run", file)
    assert done.returncode == 1
    assert "1 of 2 runs of the study failed" in done.stderr
    assert BAD_REWARD in done.stderr
    log = tmp_path / "work" / "logs" / "batch-32" / "tests.bad_env-BadReward-v0" / "seed-0.log"
    assert log.read_text().count("$ ") == 2
    good, failed = load_records(tmp_path / "results")
    assert (good.environment, good.status) == ("CartPole-v1", "complete")
    assert (failed.environment, failed.status, failed.scores) == (environment, "failed", {})
    assert BAD_REWARD in failed.reason

    again = study("run", file)
    assert again.returncode == 1
    assert "2 test runs, 2 of them done before" in again.stdout
    assert BAD_REWARD in study("status", file).stdout
    assert study("run", file, "--retry-failed").returncode == 1
    assert log.read_text().count("$ ") == 4


def test_tuning_comes_first_and_on_its_own_seeds(tmp_path: Path) -> None:
    arms = [{"name": "batch 32"}]
    file = write(tmp_path, arms=arms, seeds={"test": 1, "tune": 1}, tuning={"factors": [1, 2]}, horizons=[300])
    done = study("run", file)
    assert done.returncode == 0, done.stderr
    assert "batch 32: learner.learning_rate=" in done.stdout
    records = load_records(tmp_path / "results")
    assert [(record.purpose, record.seed) for record in records] == [("test", 0), ("tune", 1000), ("tune", 1000)]
    assert (tmp_path / "results" / "tuning.json").exists()


@pytest.mark.parametrize("same_settings", [True, False])
def test_a_run_of_all_roles_is_resumed_where_it_is_the_same(tmp_path: Path, same_settings: bool) -> None:
    settings = {**TREE["settings"], "actors.num_actors": 1}
    tiny: Study = parse_study({**TREE, "run_as": "all roles", "settings": settings}, "tiny")
    run: PlannedRun = compared_runs(tiny, arms_of(tiny), {})[0]
    places = Places(tmp_path / "results", tmp_path / "work")
    directory = RunDirectory(places.run_directory(run))
    (directory.coordinator / "state").mkdir(parents=True)
    tree = run.config.model_dump(mode="json")
    tree["network"]["coordinator_address"] = "127.0.0.1:4321"  # as a run that began has it
    tree["learner"]["batch_size"] = 32 if same_settings else 16
    directory.config.write_text(configs.dump(configs.build(tree)))
    command = Maker(tiny, places).task(run).command
    assert ("--resume" in command) == same_settings
    assert ("--config" in command) != same_settings
    assert directory.path.exists() == same_settings


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_study_of_all_roles_goes_on_where_it_was(tmp_path: Path, number: signal.Signals) -> None:
    settings = {**TREE["settings"], "actors.num_actors": 1, "learner.updates_per_step": 0.25}
    arms = [{"name": "batch 32"}]
    file = write(tmp_path, run_as="all roles", settings=settings, arms=arms, horizons=[10_000, 20_000])
    command = [sys.executable, "-m", "sbrl.cli", "study", "run", str(file)]
    options = ["--results", str(tmp_path / "results"), "--work", str(tmp_path / "work")]
    with (tmp_path / "out").open("w") as output:
        runner = subprocess.Popen([*command, *options], stdout=output, stderr=subprocess.STDOUT)
    folder = Path("batch-32", "CartPole-v1", "seed-0")
    log = tmp_path / "work" / "logs" / folder.with_suffix(".log")
    trained = re.compile(r"^1?\d,\d{3}/20,000 steps", re.MULTILINE)
    wait_for(lambda: log.exists() and trained.search(log.read_text()) is not None, runner, tmp_path / "out")
    at_work = psutil.Process(runner.pid).children(recursive=True)
    os.kill(runner.pid, number)
    runner.wait(120)
    _, alive = psutil.wait_procs(at_work, timeout=120)
    assert not alive
    assert not load_records(tmp_path / "results")

    done = study("run", file)
    assert done.returncode == 0, done.stderr
    first, second = (line for line in log.read_text().splitlines() if line.startswith("$ "))
    assert "--resume" not in first
    assert second.endswith("--resume")
    (record,) = load_records(tmp_path / "results")
    assert (record.status, record.counts.env_steps, sorted(record.scores)) == ("complete", 20_000, [10_000, 20_000])
    assert record.counts.samples_per_insert == pytest.approx(32 * 0.25, rel=0.2)
    assert record.costs.core_seconds is None  # of its last session only: not said
    assert record.costs.bytes_moved


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], output: Path) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, f"it ended before that: {output.read_text()}"
        assert time.monotonic() < deadline, f"not within 240 s: {output.read_text()}"
        time.sleep(POLL_SECONDS)
