"""Runs commands, N at a time, each in its own process session. A stop ends those that are running."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sbrl.runtime.parent_death import PARENT_VARIABLE
from sbrl.runtime.stop_signals import StopRequest
from sbrl.telemetry.logs import ERROR_MARK

LOOK_SECONDS = 0.2
COMMAND_MARK = "$ "  # begins the line of a log that names the command that follows
STOP_SECONDS = 35.0  # `sbrl train` takes up to 25 to save


@dataclass(frozen=True)
class Task:
    """One command."""

    name: str
    command: tuple[str, ...]
    log: Path  # its output is appended here


class Ended(NamedTuple):
    """How a command ended."""

    code: int  # exit code; -N: ended by signal N
    core_seconds: float  # CPU time, including its children


class Pool:
    """Runs tasks, at most `jobs` at a time."""

    def __init__(self, jobs: int, stop: StopRequest, keep_open: Sequence[int] = ()) -> None:
        """Args: keep_open: file descriptors that tasks inherit, such as a lock that must last as long as any of them."""
        self._jobs, self._stop, self._keep_open = jobs, stop, keep_open
        self._running: dict[Task, subprocess.Popen[bytes]] = {}

    def work_off(
        self,
        tasks: Iterable[Task],
        ended: Callable[[Task, Ended], Task | None],
        look: Callable[[Sequence[Task]], None],
    ) -> bool:
        """Runs all tasks, or as many as it can before a stop; returns whether all have ended.

        Args:
            tasks: iterated lazily; the next task is taken when there is room for it.
            ended: called with each task that has ended by itself. It may return another task, which comes next.
            look: called now and then with the running tasks.
        """
        waiting, again = iter(tasks), deque[Task]()
        try:
            while True:
                while len(self._running) < self._jobs:
                    task = again.popleft() if again else next(waiting, None)
                    if task is None:
                        break
                    self._running[task] = self._start(task)
                if not self._running:
                    return True
                if self._stop.wait(LOOK_SECONDS):
                    return False
                for task, end in self._reap():
                    if (repeated := ended(task, end)) is not None:
                        again.append(repeated)
                look(list(self._running))
        finally:
            self._end_all()

    def _start(self, task: Task) -> subprocess.Popen[bytes]:
        task.log.parent.mkdir(parents=True, exist_ok=True)
        with task.log.open("ab") as log:
            log.write(f"{COMMAND_MARK}{' '.join(task.command)}\n".encode())
            log.flush()
            return subprocess.Popen(
                task.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, PARENT_VARIABLE: str(os.getpid())},  # the kernel ends it with us, however we end
                pass_fds=self._keep_open,
                start_new_session=True,  # Ctrl-C reaches only us; we pass it on once
            )

    def _reap(self) -> list[tuple[Task, Ended]]:
        reaped = []
        for task, process in list(self._running.items()):
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                del self._running[task]
                reaped.append((task, Ended(process.returncode, usage.ru_utime + usage.ru_stime)))
        return reaped

    def _end_all(self) -> None:
        """Asks the running commands to stop, and kills those that do not end in time."""
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in self._running.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._running.clear()


def last_words(log: Path) -> str:
    """The last error of the last command in a log, or its last line."""
    text = log.read_text(encoding="utf-8", errors="replace")
    _command, *lines = [line.strip() for line in text[text.rfind(COMMAND_MARK) :].splitlines() if line.strip()]
    errors = [line.removeprefix(ERROR_MARK) for line in lines if line.startswith(ERROR_MARK)]
    return (errors or lines or [""])[-1]
