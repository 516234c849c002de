"""A process that lets nothing outlive a launcher, however that dies.

`python -m sbrl.local.guard`, started by it.

The kernel sends SIGTERM to the roles of a launcher that has died. One that hangs, in an environment's step say, does not end
upon that, and would hold the run's directory for ever. Nobody is left to kill it but this process.
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

ORPHAN_SECONDS = 25.0  # to end by themselves
PATIENCE_SECONDS = 600.0  # for one that is writing a large checkpoint
POLL_SECONDS = 0.1


class Guard:
    """The launcher's side: names its processes to the guard."""

    def __init__(self, log: Path) -> None:
        """Args: log: where the guard says what it killed."""
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
        """A process, first of its own session, that is to end with the launcher."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # killed: the kernel's SIGTERM is left
                os.write(self._process.stdin.fileno(), f"{process_id}\n".encode())

    def close(self) -> None:
        """Ends it, now that all it watches has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdin is not None
            self._process.stdin.close()


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # sent to all processes of a run, this is the last to go
    watched = []
    for line in sys.stdin:  # to its end, which is the launcher's
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
        time.sleep(POLL_SECONDS)  # no event tells the end of a process that is not a child


def kill_session(process_id: int) -> None:
    """Kills a process that leads a session and has not been waited for, with those that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process_id, signal.SIGKILL)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    main()
