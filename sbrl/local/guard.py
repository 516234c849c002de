"""A process that ensures that nothing outlives the launcher, however the launcher dies.

The launcher starts it as `python -m sbrl.local.guard`.

When a launcher dies, the kernel sends SIGTERM to its roles. A role that hangs, for example in an environment's step, does not
react and would hold the run directory for ever. Only this process is left to kill it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from sbrl.local.draining import Draining

ORPHAN_SECONDS = 25.0  # time for orphans to end by themselves
PATIENCE_SECONDS = 600.0  # time for an orphan that is writing a large checkpoint
POLL_SECONDS = 0.1


class Guard:
    """The launcher's side: tells the guard which processes to watch."""

    def __init__(self, log: Path) -> None:
        """Args: log: the file in which the guard records what it killed."""
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "sbrl.local.guard"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def watch(self, process_id: int) -> None:
        """Adds a process that must end with the launcher. It must lead its own session."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # the guard was killed: only the kernel's SIGTERM is left
                os.write(self._process.stdin.fileno(), f"{process_id}\n".encode())

    def close(self) -> None:
        """Ends the guard. All processes that it watches must have ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdin is not None
            self._process.stdin.close()


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a signal to all processes of a run must not end this one first
    watched = []
    for line in sys.stdin:  # it ends when the launcher does
        try:
            watched.append(psutil.Process(int(line)))
        except psutil.NoSuchProcess:
            continue
    start, draining = time.monotonic(), Draining(process.pid for process in watched)
    while orphans := [process for process in watched if _is_alive(process)]:
        waited, gets_on = time.monotonic() - start, draining.is_getting_on()
        if waited > (PATIENCE_SECONDS if gets_on else ORPHAN_SECONDS):
            for process in orphans:
                print(f"killing process {process.pid}: its launcher died {waited:.0f} s ago", flush=True)
                kill_session(process.pid)
            return
        time.sleep(POLL_SECONDS)  # there is no event for the end of a process that is not a child


def kill_session(process_id: int) -> None:
    """Kills a session leader that has not been waited for, together with the processes it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process_id, signal.SIGKILL)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    main()
