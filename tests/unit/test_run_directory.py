"""One run at a time in a directory; what a killed launcher left running is waited for."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sbrl.errors import RunError
from sbrl.run_directory import LOCK, RunDirectory

WAIT = 30.0


def test_a_directory_that_is_in_use_is_refused_at_once(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    said: list[str] = []
    refused = pytest.raises(RunError, match=f"in use by process {os.getpid()}")
    with directory.lock(said.append), refused, directory.lock(said.append):
        raise AssertionError("held twice")
    with directory.lock(said.append):
        assert said == []


def test_the_roles_of_a_launcher_that_was_killed_are_waited_for(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as launcher:
        launcher.wait()
    directory, held = RunDirectory(tmp_path), threading.Event()
    with directory.lock(lambda text: None) as descriptor:
        role = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(descriptor,))
    (tmp_path / LOCK).write_text(f"{launcher.pid}\n")
    said: list[str] = []

    def resume() -> None:
        with directory.lock(said.append):
            held.set()

    waiting = threading.Thread(target=resume)
    waiting.start()
    try:
        assert not held.wait(1.0), "its roles are still there"
        assert said == [f"process {launcher.pid}, which ran this before, was killed: waiting until its roles have ended"]
    finally:
        role.communicate(b"\n", WAIT)
        waiting.join(WAIT)
    assert held.is_set()
    assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"
