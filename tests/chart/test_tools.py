"""The chart's own scripts, run against a real coordinator that demands the token."""

from __future__ import annotations

import csv
import importlib.util
import io
import itertools
import json
import tarfile
from functools import partial
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from sbrl.config import build, dump
from sbrl.credentials import TOKEN_FILE
from sbrl.episode_log import LogClient
from sbrl.errors import RunError
from sbrl.fleet import FleetClient
from sbrl.fleet_member import FleetMember
from sbrl.metrics import CoordinatorMetrics
from sbrl.sharding import shard_limits
from sbrl.v1.fleet_pb2 import Episode
from services.coordinator.server import Coordinator
from tests.chart.helm import CHART

SHARDS, MIN_SIZE, INSERTED = 2, 100, 500


def script(name):
    spec = importlib.util.spec_from_file_location(name, CHART / f"files/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A coordinator, and members that report what a run of two shards would; `counters` and `gauges` can be changed."""
    token = tmp_path / "token"
    token.write_text("the-runs-token")
    monkeypatch.setenv(TOKEN_FILE, str(token))
    coordinator = Coordinator(tmp_path / "coordinator", 1000, CoordinatorMetrics(CollectorRegistry()))
    address = f"127.0.0.1:{coordinator.start('127.0.0.1', 0)}"
    config = build(
        {
            "run": {"env_steps": 1000},
            "replay": {"num_shards": SHARDS, "min_size": MIN_SIZE},
            "network": {"coordinator_address": address, "replay_addresses": [f"shard-{k}:7002" for k in range(SHARDS)]},
        }
    )
    path = tmp_path / "run.yaml"
    path.write_text(dump(config), encoding="utf-8")
    due = config.samples_per_insert * (INSERTED - shard_limits(config, 0).min_size)
    counters = {"learner": {"updates": 10, "samples_trained": 80}, "replay": {"transitions_inserted": INSERTED}}
    gauges = [{"limiter_inserts": INSERTED, "limiter_samples": due} for _ in range(SHARDS)]
    members = [FleetMember(address, "learner", "l", counters=partial(dict, counters["learner"]))]
    for shard in range(SHARDS):
        members.append(
            FleetMember(
                address,
                "replay",
                f"replay-{shard}",
                counters=partial(dict, counters["replay"]),
                gauges=partial(dict, gauges[shard]),
                index=shard,
            )
        )
    run = SimpleNamespace(config=config, path=path, address=address, counters=counters, gauges=gauges, members=members, due=due)
    yield run
    for member in members:
        member.leave()
    coordinator.stop(0.1)


def beat(run, times=2):
    for _ in range(times):  # the first one joins
        for member in run.members:
            member.beat_now()


def check(run, monkeypatch, between=lambda: None):
    """Runs check.py for five looks; `between` is called between two of them."""
    module = script("check")
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=itertools.count().__next__, sleep=lambda seconds: between()))
    module.main(["--config", str(run.path), "--timeout-seconds", "6"])


def train(run):
    run.counters["learner"]["updates"] += 5
    beat(run, 1)


def test_the_check_passes_once_the_learner_makes_updates_and_the_ratio_holds(run, monkeypatch, capsys):
    beat(run)
    check(run, monkeypatch, lambda: train(run))
    assert "ok: " in capsys.readouterr().out


def test_a_finished_run_passes(run, monkeypatch, capsys):
    beat(run)
    client = FleetClient(run.address)
    client.finish()
    client.close()
    check(run, monkeypatch)
    assert "ok: 10 updates" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda run: run.counters["learner"].update(updates=0), "no updates yet: 1000 of 100 transitions"),
        (lambda run: None, "the learner is at 10 updates and makes no more"),
        (lambda run: run.gauges[1].update(limiter_samples=run.due / 2), "shard 1 has served"),
        (lambda run: run.members.pop(), "shard 1 has not joined"),
    ],
    ids=["no updates", "no more updates", "ratio missed", "shard missing"],
)
def test_the_check_fails_and_says_what_is_missing(run, monkeypatch, break_it, message):
    break_it(run)
    beat(run)
    with pytest.raises(RunError, match=message):
        check(run, monkeypatch)


def test_a_stranger_is_refused(run, monkeypatch, tmp_path):
    (tmp_path / "other").write_text("another-token")
    monkeypatch.setenv(TOKEN_FILE, str(tmp_path / "other"))
    with pytest.raises(RunError, match="wrong token"):
        check(run, monkeypatch)


def test_results_come_as_a_tar_archive(run, monkeypatch):
    """From the coordinator of the pod itself: its Service cannot be reached from there under the network policies."""
    beat(run)
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
    assert (summary["updates"], summary["train_episodes"], summary["wall_seconds"]) == (10, 3, 2.0)
    rows = list(csv.DictReader(io.StringIO(files["episodes.csv"].decode())))
    assert [float(row["episode_return"]) for row in rows] == [0.0, 1.0, 2.0]
    assert files["learning_curve.png"].startswith(b"\x89PNG")
