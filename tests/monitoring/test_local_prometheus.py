"""`sbrl train --prometheus` with the real Prometheus: it sees the run, ends with it, and the run survives its loss."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from sbrl.local import prometheus as local_prometheus
from sbrl.local.prometheus import LocalPrometheus
from sbrl.local.prometheus_config import CONFIG, RULES, TARGETS, write_targets
from sbrl.v1.fleet_pb2 import GetStatusResponse, Member
from scripts.dashboard_pictures import series_of
from scripts.dashboards import dashboards
from tests.monitoring.conftest import NAMES, START_SECONDS
from tests.monitoring.promql import promtool, rules
from tests.smoke.conftest import POLL_SECONDS, LocalRun, sbrl

pytestmark = pytest.mark.timeout(START_SECONDS + 240)
ADDRESS = re.compile(r"prometheus: http://(127\.0\.0\.1:\d+)/alerts")
SEEN_SECONDS = 120.0
FILLED_SECONDS = 240.0  # rates need two scrapes, and some rules a hundred episodes
STATUS = GetStatusResponse(
    members=[
        Member(role="learner", name="learner", alive=True, metrics_address="127.0.0.1:1"),
        Member(role="actor", name="actor-0", metrics_address="127.0.0.1:2"),
    ]
)


def wait_for(condition: Callable[[], Any], what: str, timeout: float = SEEN_SECONDS) -> Any:
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline, f"no {what} within {timeout:.0f} s"
        time.sleep(POLL_SECONDS)
    return found


def ask(address: str, path: str, **arguments: str) -> Any:
    """The answer of Prometheus' API; None while it does not answer."""
    try:
        with urllib.request.urlopen(
            f"http://{address}/api/v1/{path}?{urllib.parse.urlencode(arguments)}", timeout=10
        ) as answer:
            return json.load(answer)["data"]
    except OSError:
        return None


def series(address: str, expression: str) -> list[dict[str, str]]:
    """The labels of an expression's present series."""
    answer = ask(address, "query", query=expression)
    return [] if answer is None else [one["metric"] for one in answer["result"]]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def server(tmp_path: Path, said: list[str]) -> Any:
    """A separate server, without a run."""
    prometheus = LocalPrometheus(tmp_path / "prometheus", "run", said.append)
    yield prometheus
    prometheus.stop()


def address_in(text: str) -> str:
    found = ADDRESS.search(text)
    assert found, text
    return found[1]


def test_it_scrapes_every_role_of_the_run_and_evaluates_the_rules(run: LocalRun) -> None:
    address = address_in(run.text())
    up = 'up{namespace="local", release="run"} == 1'
    found = wait_for(lambda: len(seen := series(address, up)) == len(NAMES) and seen, "scrape of every role")
    assert {labels["pod"] for labels in found} == set(NAMES)
    assert {labels["component"] for labels in found} == {"coordinator", "replay", "learner", "actor", "evaluator"}
    loaded = ask(address, "rules")["groups"]
    assert {rule["name"] for group in loaded for rule in group["rules"]} == {rule.name for rule in rules()}
    wait_for(lambda: series(address, 'release:sbrl_run:training{namespace="local", release="run"} == 1'), "recorded series")
    assert all(rule["health"] != "err" for group in ask(address, "rules")["groups"] for rule in group["rules"])


def test_what_it_is_given_is_in_the_run_directory_and_valid(run: LocalRun) -> None:
    directory = run.directory / "prometheus"
    done = promtool("check", "config", directory / CONFIG)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 rule files found" in done.stdout
    targets = json.loads((directory / TARGETS).read_text(encoding="utf-8"))
    assert {target["labels"]["pod"] for target in targets} == set(NAMES)
    assert (directory / "data").is_dir()


def test_targets_keep_their_names_and_are_written_when_they_change(tmp_path: Path) -> None:
    path = tmp_path / TARGETS
    write_targets(path, STATUS, release="pong")
    first = path.stat().st_ino
    assert [(one["targets"], one["labels"]["instance"]) for one in json.loads(path.read_text(encoding="utf-8"))] == [
        (["127.0.0.1:2"], "actor-0"),
        (["127.0.0.1:1"], "learner"),
    ]
    write_targets(path, STATUS, release="pong")
    assert path.stat().st_ino == first, "a file of targets that would not change was written again"
    moved = GetStatusResponse(members=[Member(role="learner", name="learner", metrics_address="127.0.0.1:3")])
    write_targets(path, moved, release="pong")
    assert json.loads(path.read_text(encoding="utf-8"))[0]["targets"] == ["127.0.0.1:3"]


def test_it_is_started_again_when_it_ends_and_stopped_at_the_end(
    server: LocalPrometheus, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_prometheus, "AGAIN_SECONDS", 0.1)
    server.start()
    address = address_in(said[-1])
    wait_for(lambda: ask(address, "status/buildinfo"), "server")
    (process,) = [one for one in psutil.Process().children() if "prometheus" in one.name()]
    process.kill()

    def looked() -> bool:
        server.look(STATUS)
        return len(said) == 3

    wait_for(looked, "second start")
    assert "prometheus ended (signal SIGKILL)" in said[1]
    again = address_in(said[2])
    wait_for(lambda: ask(again, "status/buildinfo"), "server")
    assert {one["labels"]["pod"] for one in ask(again, "targets")["activeTargets"]} <= {"learner", "actor-0"}
    server.stop()
    assert ask(again, "status/buildinfo") is None
    assert not [one for one in psutil.Process().children() if "prometheus" in one.name()]


def test_where_there_is_none_the_run_is_told_how_to_get_it_and_goes_on(
    server: LocalPrometheus, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(local_prometheus, "TOOLS", tmp_path)
    server.start()
    server.look(STATUS)
    server.stop()
    (text,) = said
    assert "prometheus is not installed" in text
    assert "apt-get install prometheus" in text
    directory = tmp_path / "prometheus"
    assert f"--config.file={directory / CONFIG}" in text
    # Everything is ready for a Prometheus that is started by hand.
    assert len(json.loads((directory / TARGETS).read_text(encoding="utf-8"))) == 2
    assert list((directory / RULES).glob("*.yaml"))


def test_an_installation_without_rules_says_so(
    server: LocalPrometheus, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sbrl.local.prometheus_config.SHIPPED_RULES", tmp_path / "none")
    server.start()
    assert "no alert rules" in said[0]


def test_a_launcher_that_is_killed_leaves_no_server(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from sbrl.local.prometheus import LocalPrometheus\n"
        "LocalPrometheus(Path(sys.argv[1]), 'run', lambda text: print(text, flush=True)).start(); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "prometheus")], stdout=subprocess.PIPE, text=True
    ) as launcher:
        assert launcher.stdout is not None
        address = address_in(launcher.stdout.readline())
        wait_for(lambda: ask(address, "status/buildinfo"), "server")
        os.kill(launcher.pid, signal.SIGKILL)
    wait_for(lambda: ask(address, "status/buildinfo") is None, "end of the server")


def test_a_serial_run_has_nothing_to_scrape(tmp_path: Path) -> None:
    done = sbrl("train", "--serial", "--prometheus", "--run-dir", str(tmp_path / "run"))
    assert done.returncode == 2
    assert "serves no metrics" in done.stderr
    assert not (tmp_path / "run").exists()


def test_no_panel_of_a_dashboard_is_empty(run: LocalRun) -> None:
    address = address_in(run.text())
    names = {"namespace": "local", "release": "run"}
    waiting = {(model["title"], panel["title"]): panel for model in dashboards().values() for panel in model["panels"]}
    deadline = time.monotonic() + FILLED_SECONDS
    while waiting:
        waiting = {
            title: panel
            for title, panel in waiting.items()
            if not series_of(address, panel, names, FILLED_SECONDS, time.time())
        }
        assert not waiting or time.monotonic() < deadline, f"no data for {sorted(waiting)}"
        time.sleep(POLL_SECONDS)
