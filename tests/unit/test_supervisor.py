"""Which processes a supervisor restarts, and when it gives up."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from sbrl.errors import RunError
from sbrl.local import supervisor
from sbrl.local.supervisor import RoleCommand, Supervisor

WAIT = 30.0


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(supervisor, "BACKOFF_SECONDS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(supervisor, "STARTUP_SECONDS", 0.0)
    return []


def supervise(folder: Path, said: list[str], module: str, *arguments: str) -> Supervisor:
    role = RoleCommand("role", module, list(arguments), folder / "role.log")
    lock = os.open(folder, os.O_RDONLY)
    return Supervisor([role], lambda name: False, said.append, keep_open=lock, guarded=lambda process_id: None)


def wait_for(supervised: Supervisor, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        supervised.check()
        time.sleep(0.01)


def servers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "http.server" in child.cmdline()]


def kill_the_server(supervised: Supervisor, said: list[str]) -> None:
    wait_for(supervised, servers)
    before = len(said)
    servers()[0].kill()
    wait_for(supervised, lambda: len(said) > before)


def test_a_role_that_is_killed_again_and_again_is_started_every_time(tmp_path: Path, said: list[str]) -> None:
    supervised = supervise(tmp_path, said, "http.server", "0", "--bind", "127.0.0.1")
    supervised.start("role")
    try:
        for _ in range(7):
            kill_the_server(supervised, said)
    finally:
        supervised.kill("role")
    assert said[:7] == ["role died (signal SIGKILL): starting it again"] * 7


def test_a_role_that_ends_by_itself_again_and_again_ends_the_run(tmp_path: Path, said: list[str]) -> None:
    supervised = supervise(tmp_path, said, "json.tool")  # fails, because empty input is not JSON
    supervised.start("role")
    with pytest.raises(RunError, match=r"role died 4 times in a row, last with exit code 1: Expecting value"):
        wait_for(supervised, lambda: False)
    assert len(said) == 3


def test_roles_are_started_when_their_kind_is_and_once(tmp_path: Path, said: list[str]) -> None:
    server = ("http.server", ["0", "--bind", "127.0.0.1"])
    commands = [RoleCommand(name, *server, tmp_path / f"{name}.log") for name in ("actor-0", "evaluator")]
    lock = os.open(tmp_path, os.O_RDONLY)
    supervised = Supervisor(commands, lambda name: False, said.append, keep_open=lock, guarded=lambda process_id: None)
    try:
        supervised.start("actor")
        supervised.check()
        (actor,) = supervised.process_ids("")
        supervised.start("actor", "evaluator")
        assert len(supervised.process_ids("")) == 2
        assert supervised.process_ids("actor") == [actor]
    finally:
        supervised.kill("")
    stopped = Supervisor(commands, lambda name: False, said.append, keep_open=lock, guarded=lambda process_id: None)
    stopped.terminate("evaluator")
    stopped.begin_stop()
    stopped.start("actor", "evaluator")
    assert stopped.process_ids("") == []


HOPELESS_ROLE = """
from prometheus_client import CollectorRegistry
from sbrl.config import build
from sbrl.errors import FinalError
from sbrl.runtime.lifecycle import RoleRuntime
from sbrl.telemetry.logs import Context
from sbrl.runtime.program import run_program

def main(argv):
    context = Context("actor", "actor-0", "run")
    with RoleRuntime(context, build({}), CollectorRegistry(), health_port=0, metrics_port=0):
        raise FinalError("env.id=Bad-v0 returned reward=nan")

run_program(main)
"""


def test_what_starting_again_would_only_meet_again_ends_the_run_at_once(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hopeless_role.py").write_text(HOPELESS_ROLE, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    supervised = supervise(tmp_path, said, "hopeless_role")
    supervised.start("role")
    with pytest.raises(RunError) as failed:
        wait_for(supervised, lambda: False)
    assert str(failed.value) == f"role: env.id=Bad-v0 returned reward=nan (log: {tmp_path / 'role.log'})"
    assert said == []
    assert "Traceback" not in (tmp_path / "role.log").read_text()


def test_a_first_failure_is_not_put_down_to_the_start(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "STARTUP_SECONDS", 120.0)
    (tmp_path / "failing_role.py").write_text("import sys\nsys.exit('sbrl: error: no such luck')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    supervised = supervise(tmp_path, said, "failing_role")
    supervised.start("role")
    with pytest.raises(RunError, match=r"role failed \d+ s after its start: no such luck \(log: "):
        wait_for(supervised, lambda: False)
