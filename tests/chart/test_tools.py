"""The chart's own scripts, run against a real coordinator that demands the token."""

from __future__ import annotations

import csv
import importlib.util
import io
import itertools
import json
import tarfile
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from sbrl.config import build, dump
from sbrl.coordination.episode_log import LogClient
from sbrl.coordination.fleet import FleetClient
from sbrl.coordination.membership import FleetMember
from sbrl.coordination.weights import WeightsClient
from sbrl.errors import RunError
from sbrl.rpc.credentials import TOKEN_FILE
from sbrl.telemetry.metrics import CoordinatorMetrics
from sbrl.v1.episodes_pb2 import Episode
from sbrl.v1.fleet_pb2 import LearnerProgress, ShardProgress
from services.coordinator.server import Coordinator
from tests.chart.helm import CHART

SHARDS, MIN_SIZE, RECEIVED = 2, 100, 500  # of each shard


def script(name):
    spec = importlib.util.spec_from_file_location(name, CHART / f"files/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A coordinator, and members that report like a run of two shards. `progress` and `members` can be changed."""
    token = tmp_path / "token"
    token.write_text("the-runs-token")
    monkeypatch.setenv(TOKEN_FILE, str(token))
    tree = {"run": {"env_steps": 1000}, "replay": {"num_shards": SHARDS, "min_size": MIN_SIZE}}
    coordinator = Coordinator(
        tmp_path / "coordinator", CoordinatorMetrics(CollectorRegistry()), settle=lambda before: build(tree)
    )
    address = f"127.0.0.1:{coordinator.start('127.0.0.1', 0)}"
    network = {"coordinator_address": address, "replay_addresses": [f"shard-{k}:7002" for k in range(SHARDS)]}
    # A pod's config: values derived from run.env_steps differ from those at the run's beginning, which the coordinator has.
    given = build({"run": {"env_steps": 9000}, "replay": {"num_shards": SHARDS}, "network": network})
    path = tmp_path / "run.yaml"
    path.write_text(dump(given), encoding="utf-8")
    config = build(tree)
    due = config.samples_per_insert * (SHARDS * RECEIVED - MIN_SIZE)
    progress = LearnerProgress(
        updates=int(due) // config.learner.batch_size,
        samples_trained=int(due),
        samples_due=due,
        shards=[ShardProgress(received=RECEIVED, answers=True) for _ in range(SHARDS)],
    )
    weights = WeightsClient(address)
    term, _ = weights.acquire_term("test")
    weights.close()
    learner = FleetMember(address, "learner", "l", counters=dict)
    learner.hold_term(term)
    learner.report_progress(lambda: progress)
    replay = [FleetMember(address, "replay", f"replay-{shard}", counters=dict, index=shard) for shard in range(SHARDS)]
    members = [learner, *replay]
    run = SimpleNamespace(config=config, path=path, address=address, progress=progress, members=members)
    yield run
    for member in members:
        member.leave()
    coordinator.stop(0.1)


def heartbeat(run, times=2):
    for _ in range(times):  # the first one joins
        for member in run.members:
            member.send_heartbeat()


def check(run, monkeypatch, between=lambda: None):
    """Runs check.py for five looks; `between` is called between two of them."""
    module = script("check")
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=itertools.count().__next__, sleep=lambda seconds: between()))
    module.main(["--config", str(run.path), "--timeout-seconds", "6"])


def train(run):
    """Actors and learner continue, at the ratio."""
    run.progress.updates += 5
    run.progress.samples_trained += 5 * run.config.learner.batch_size
    run.progress.samples_due = run.progress.samples_trained
    heartbeat(run, 1)


def test_the_check_passes_once_the_learner_makes_updates_and_the_ratio_holds(run, monkeypatch, capsys):
    heartbeat(run)
    check(run, monkeypatch, lambda: train(run))
    assert "ok: " in capsys.readouterr().out


def test_a_finished_run_passes(run, monkeypatch, capsys):
    heartbeat(run)
    client = FleetClient(run.address)
    client.finish()
    client.close()
    check(run, monkeypatch)
    assert f"ok: {run.progress.updates} updates" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda run: setattr(run.progress, "updates", 0), "no updates yet: 1000 of 100 transitions"),
        (lambda run: None, "the learner is at 225 updates and makes no more"),
        (lambda run: setattr(run.progress, "samples_trained", 1500), "1500 samples are trained where 1800 are due"),
        (lambda run: setattr(run.progress, "samples_due", 1780.0), "1800 samples are trained where 1780 are due"),
        (lambda run: setattr(run.progress.shards[1], "answers", False), "the learner does not reach shard 1"),
    ],
    ids=["no updates", "no more updates", "behind the ratio", "ahead of the ratio", "shard away"],
)
def test_the_check_fails_and_says_what_is_missing(run, monkeypatch, break_it, message):
    break_it(run)
    heartbeat(run)
    with pytest.raises(RunError, match=message):
        check(run, monkeypatch)


def test_a_stranger_is_refused(run, monkeypatch, tmp_path):
    (tmp_path / "other").write_text("another-token")
    monkeypatch.setenv(TOKEN_FILE, str(tmp_path / "other"))
    with pytest.raises(RunError, match="wrong token"):
        check(run, monkeypatch)


def test_results_come_as_a_tar_archive(run, monkeypatch):
    """From the coordinator in the same pod: the network policies do not let it reach its Service."""
    heartbeat(run)
    service = f"sbrl-coordinator.rl.svc.invalid:{run.address.rpartition(':')[2]}"
    run.path.write_text(run.path.read_text(encoding="utf-8").replace(run.address, service), encoding="utf-8")
    log = LogClient(run.address)
    log.append_episodes(
        [Episode(number=n, incarnation=1, episode_return=n, length=5, env_steps=10 * n, time=100.0 + n) for n in range(3)]
    )
    log.close()
    buffer = io.BytesIO()
    monkeypatch.setattr("sys.stdout", SimpleNamespace(buffer=buffer))
    script("results").main(["--config", str(run.path)])
    with tarfile.open(fileobj=io.BytesIO(buffer.getvalue())) as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive.getmembers()}  # type: ignore[union-attr]
    assert set(files) == {"summary.json", "episodes.csv", "evaluations.csv", "learning_curve.png"}
    summary = json.loads(files["summary.json"])
    assert (summary["updates"], summary["train_episodes"], summary["wall_seconds"]) == (225, 3, 2.0)
    assert summary["samples_per_insert_achieved"] == run.config.samples_per_insert
    rows = list(csv.DictReader(io.StringIO(files["episodes.csv"].decode())))
    assert [float(row["episode_return"]) for row in rows] == [0.0, 1.0, 2.0]
    assert files["learning_curve.png"].startswith(b"\x89PNG")
