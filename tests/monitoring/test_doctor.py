"""`sbrl doctor` and `sbrl top` on a real run, and their messages if there is none."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from sbrl.config import dump, load
from sbrl.errors import UsageError
from sbrl.monitor import doctor
from sbrl.monitor.diagnosis import DISK_LOW
from sbrl.telemetry.metric_base import disk_room
from tests.monitoring.conftest import START_SECONDS
from tests.smoke.conftest import LocalRun, member

pytestmark = pytest.mark.timeout(START_SECONDS + 240)
HEALTHY_SECONDS = 180.0


def program(module: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


def healthy(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The doctor's first healthy answer, or else its last: on a busy machine a role can be late for a moment."""
    end = time.monotonic() + HEALTHY_SECONDS
    while (done := program("sbrl.monitor.doctor", *arguments, "--seconds", "5")).returncode != 0 and time.monotonic() < end:
        pass
    return done


@pytest.fixture
def roomy_run(run: LocalRun) -> LocalRun:
    """The run, unless this machine's disk is so full that the doctor rightly complains."""
    free, size = disk_room(run.directory)
    if free < DISK_LOW * size:
        pytest.skip(f"{run.directory} has {free / size:.0%} of its disk left: the doctor calls no run healthy there")
    return run


def test_a_healthy_run_is_healthy(roomy_run: LocalRun) -> None:
    done = healthy(roomy_run.directory)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "healthy" in done.stdout
    assert "env steps" in done.stdout


@pytest.mark.parametrize("name", ["replay-1", "learner", "actor-0", "coordinator"])
def test_a_process_that_is_stopped_is_named_with_its_remedy(run: LocalRun, name: str) -> None:
    status = run.wait_for(lambda now: member(now, name.partition("-")[0], name) is not None, f"live {name}", START_SECONDS)
    found = member(status, name.partition("-")[0], name)
    assert found is not None
    os.kill(found.process_id, signal.SIGSTOP)
    try:
        done = program("sbrl.monitor.doctor", run.directory, "--seconds", "5")
    finally:
        os.kill(found.process_id, signal.SIGCONT)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"process {found.process_id} is stopped" in done.stdout
    first = next(line for line in done.stdout.splitlines() if line.startswith(("wrong: ", "1. ")))
    assert name in first, done.stdout
    assert f"kill -CONT {found.process_id}" in done.stdout


def test_a_run_can_be_named_by_its_coordinator(roomy_run: LocalRun) -> None:
    address = load(roomy_run.directory / "run.yaml").network.coordinator_address
    roomy_run.wait_for(lambda now: all(one.alive for one in now.members), "whole fleet", START_SECONDS)
    done = healthy("--coordinator", address)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = program("sbrl.monitor.top", "--coordinator", address, "--readings", "2", "--interval", "0.5")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("SPI ") == 2
    assert "/100,000,000 steps" in shown.stdout


def test_on_a_terminal_the_view_is_drawn_in_place(run: LocalRun) -> None:
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
    command = [sys.executable, "-m", "sbrl.monitor.top", str(run.directory), "--readings", "3", "--interval", "0.5"]
    with subprocess.Popen(command, stdout=terminal, stderr=terminal, stdin=terminal) as process:
        os.close(terminal)
        drawn = b""
        try:
            while chunk := os.read(controller, 65536):
                drawn += chunk
        except OSError:  # the end of a terminal's output
            pass
        finally:
            os.close(controller)
    assert process.returncode == 0, drawn.decode()
    for part in ("processes", "replay-1", "samples per insert", "Ctrl-C ends this view"):
        assert part in drawn.decode(), part


def test_a_run_that_is_not_there_cannot_be_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=r"has no run\.yaml"):
        doctor.main([str(tmp_path)])
    (tmp_path / "run.yaml").write_text(dump(load()), encoding="utf-8")
    assert doctor.main([str(tmp_path)]) == doctor.UNKNOWN
    assert "--resume" in capsys.readouterr().out
    (tmp_path / "summary.json").write_text('{"complete": true, "env_steps": 1234}', encoding="utf-8")
    assert doctor.main([str(tmp_path)]) == doctor.HEALTHY
    assert "complete, with 1,234 env steps" in capsys.readouterr().out
    assert doctor.main(["--coordinator", "127.0.0.1:1", "--seconds", "1"]) == doctor.UNKNOWN
    assert "--coordinator" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["RUN", "--coordinator", "127.0.0.1:1"], ["RUN", "--config", "run.yaml"]])
def test_a_run_is_named_in_one_way(arguments: list[str]) -> None:
    with pytest.raises(UsageError, match="--coordinator"):
        doctor.main(arguments)
