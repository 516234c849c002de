"""One run at a time in a directory: a new launcher waits for roles that a killed one left running."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sbrl.errors import RunError
from sbrl.storage import run_directory
from sbrl.storage.run_directory import LOCK, RunDirectory

WAIT = 30.0


def test_a_directory_that_is_in_use_is_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = RunDirectory(tmp_path)
    refused = pytest.raises(RunError, match=f"in use by process {os.getpid()}")
    with directory.lock(), refused, directory.lock():
        raise AssertionError("held twice")
    with directory.lock():
        assert capsys.readouterr().err == ""


@contextmanager
def orphaned(directory: RunDirectory) -> Iterator[int]:
    """Yields the process id of a dead launcher, with a role that still holds the lock."""
    with subprocess.Popen([sys.executable, "-c", ""]) as launcher:
        launcher.wait()
    with directory.lock() as descriptor:
        role = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(descriptor,))
    (directory.path / LOCK).write_text(f"{launcher.pid}\n")
    try:
        yield launcher.pid
    finally:
        role.communicate(b"\n", WAIT)


def test_the_roles_of_a_launcher_that_was_killed_are_waited_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    directory, held = RunDirectory(tmp_path), threading.Event()

    def resume() -> None:
        with directory.lock():
            held.set()

    with orphaned(directory) as launcher:
        waiting = threading.Thread(target=resume)
        waiting.start()
        assert not held.wait(1.0), "its roles are still there"
        said = capfd.readouterr().err
        assert said == f"process {launcher}, which ran this before, was killed: waiting until its roles have ended\n"
    waiting.join(WAIT)
    assert held.is_set()
    assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"


def test_roles_that_do_not_end_are_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_directory, "LOCK_SECONDS", 0.5)
    directory = RunDirectory(tmp_path)
    with orphaned(directory) as launcher:
        refused = pytest.raises(RunError, match=f"roles of process {launcher}.*--run-dir")
        with refused, directory.lock():
            raise AssertionError("held twice")
