"""Nothing outlives a launcher, and roles that are all asked to stop at once stop in their order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from sbrl.local.draining import PROGRESS_BYTES, Draining
from sbrl.local.guard import Guard
from sbrl.runtime.parent_death import IN_ORDER, Turn

WAIT = 30.0
# Hangs, ignores SIGTERM, and has started another process that does the same.
HUNG = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""
Start = Callable[[str], subprocess.Popen[str]]
GUARD = "from sbrl.local import guard; guard.ORPHAN_SECONDS = 0.3; guard.main()"


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts programs as leaders of their sessions."""
    started: list[subprocess.Popen[str]] = []

    def start_one(code: str) -> subprocess.Popen[str]:
        command, pipe = [sys.executable, "-c", code], subprocess.PIPE
        started.append(subprocess.Popen(command, start_new_session=True, stdout=pipe, stdin=pipe, text=True))
        return started[-1]

    yield start_one
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(WAIT)
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.close()
        process.stdin.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_gone(process_id: int) -> bool:
    try:
        return psutil.Process(process_id).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("stopped", [False, True], ids=["hangs", "is stopped"])
def test_what_hangs_is_killed_when_its_launcher_is_gone(start: Start, stopped: bool) -> None:
    guard, hung = start(GUARD), start(HUNG)
    assert hung.stdout is not None
    assert guard.stdin is not None
    assert guard.stdout is not None
    grandchild = int(hung.stdout.readline())
    if stopped:
        hung.send_signal(signal.SIGSTOP)
    print(hung.pid, file=guard.stdin, flush=True)
    guard.stdin.close()  # as the launcher's death does
    assert hung.wait(WAIT) == -signal.SIGKILL
    wait_until(lambda: is_gone(grandchild))
    assert f"killing process {hung.pid}: its launcher died" in guard.stdout.read()
    assert guard.wait(WAIT) == 0


def test_a_guard_outlives_signals_to_all_and_ends_with_its_launcher(tmp_path: Path) -> None:
    guard = Guard(tmp_path / "guard.log")
    guard.start()
    # A process that has just begun its program has no command line for a moment.
    wait_until(lambda: len(guards()) == 1)
    (process,) = guards()
    guard.watch(os.getpid())
    wait_until(lambda: bool(ignored_signals(process.pid) & (1 << (signal.SIGTERM - 1))))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        process.send_signal(number)
    assert process.status() != psutil.STATUS_ZOMBIE
    guard.close()
    assert is_gone(process.pid)
    assert not (tmp_path / "guard.log").read_text()


def guards() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "sbrl.local.guard" in child.cmdline()]


def ignored_signals(process_id: int) -> int:
    (line,) = [one for one in Path(f"/proc/{process_id}/status").read_text().splitlines() if one.startswith("SigIgn:")]
    return int(line.split()[1], 16)


class Waiter:
    """A role that was sent SIGTERM, and the launcher's end of the pipe to it."""

    def __init__(self) -> None:
        read_end, self.write_end = os.pipe()
        self.ended = threading.Event()
        self._turn = Turn(read_end)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._turn.wait()
        self.ended.set()


def test_a_role_waits_for_its_turn_when_all_are_stopped() -> None:
    role = Waiter()
    os.write(role.write_end, IN_ORDER)
    assert not role.ended.wait(0.2)
    os.close(role.write_end)  # its turn, or the launcher's death
    assert role.ended.wait(WAIT)


def test_a_role_that_is_stopped_alone_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sbrl.runtime.parent_death.LAUNCHER_SECONDS", 0.1)
    role = Waiter()
    assert role.ended.wait(WAIT)
    os.close(role.write_end)
    Turn(None).wait()  # nor does one without a launcher wait for anything


def test_only_a_process_that_moves_bytes_gets_on(start: Start, tmp_path: Path) -> None:
    now = [100.0]
    write = f"open({str(tmp_path / 'file')!r}, 'wb').write(bytes({PROGRESS_BYTES})); print(line, flush=True)"
    code = f"import sys\nfor line in sys.stdin: {write}"
    writer = start(code)
    assert writer.stdin is not None
    assert writer.stdout is not None
    draining = Draining([writer.pid], clock=lambda: now[0])
    assert not draining.is_getting_on()
    print("write", file=writer.stdin, flush=True)
    writer.stdout.readline()
    assert draining.is_getting_on()
    now[0] += 60
    assert not draining.is_getting_on()
