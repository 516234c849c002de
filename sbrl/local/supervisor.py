"""Keeps the role processes of a local run alive, and stops them in order."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from sbrl.errors import RunError
from sbrl.local.guard import kill_session
from sbrl.runtime.lifecycle import GIVE_UP, START_AGAIN
from sbrl.runtime.parent_death import IN_ORDER, PARENT_VARIABLE, TURN_VARIABLE
from sbrl.runtime.program import describe
from sbrl.telemetry.logs import ERROR_MARK, FORMAT_VARIABLE, TEXT

BACKOFF_SECONDS = (0.0, 1.0, 2.0, 4.0, 8.0)  # before the first, second, ... restart in a row
HEALTHY_SECONDS = 30.0  # after a process has lived for this long, the back-off starts anew
STARTUP_SECONDS = 120.0  # a first process that ends sooner with an error message is not restarted: it would fail again
TAIL_BYTES = 4096
POLL_SECONDS = 0.1


class RoleCommand(NamedTuple):
    """The command that starts one role process."""

    name: str  # unique in the run: replay-0
    module: str  # python -m <module>
    arguments: Sequence[str]
    log: Path


class _Role:
    def __init__(self, command: RoleCommand) -> None:
        self.command = command
        self.process: subprocess.Popen[bytes] | None = None
        self.turn: int | None = None  # see `sbrl.runtime.parent_death.Turn`
        self.started = 0.0
        self.failures = 0  # in a row
        self.restarts = 0
        self.restart_at: float | None = None
        self.done = False


class Supervisor:
    """Starts each role as a separate process, and restarts those that die.

    It never forks: Reverb's threads would not survive that.
    """

    def __init__(
        self,
        commands: Sequence[RoleCommand],
        may_end: Callable[[str], bool],
        say: Callable[[str], None],
        keep_open: int,
        guarded: Callable[[int], None],
    ) -> None:
        """
        Args:
            may_end: returns whether the role of that name is done when it exits with code 0; if not, it is started again.
            say: tells the user what happened.
            keep_open: a file descriptor that every role inherits: the run directory's lock.
            guarded: called with every process that must not outlive this one.
        """
        self._keep_open, self._guarded = keep_open, guarded
        self._stopping = False
        self._roles = [_Role(command) for command in commands]
        self._may_end, self._say = may_end, say

    def start(self, *kinds: str) -> None:
        """Starts the roles whose names begin with one of `kinds`, but none twice, and none after its turn to stop."""
        for role in self._of(kinds):
            if role.process is None and not (role.done or self._stopping):
                self._spawn(role)

    def check(self) -> None:
        """Restarts roles that have died. Call this about once a second.

        Raises:
            RunError: a role cannot be kept alive. The message has the role's own error and the place of its log.
        """
        if self._stopping:
            return
        now = time.monotonic()
        for role in self._roles:
            if role.done or role.process is None:
                continue
            if role.restart_at is not None:
                if now >= role.restart_at:
                    self._spawn(role)
                continue
            code = role.process.poll()
            if code is None:
                continue
            if code == 0 and self._may_end(role.command.name):
                role.done = True
                continue
            self._plan_restart(role, code, now)

    def is_done(self, name: str) -> bool:
        """Whether the role called `name` has ended for good."""
        return any(role.done for role in self._roles if role.command.name == name)

    def begin_stop(self) -> None:
        """Starts nothing from now on. A role that gets SIGTERM from anybody else waits for its turn."""
        self._stopping = True
        for role in self._roles:
            role.restart_at = None
            if role.turn is not None:
                with contextlib.suppress(BrokenPipeError):  # it has ended
                    os.write(role.turn, IN_ORDER)

    def terminate(self, *kinds: str) -> None:
        """Sends SIGTERM to the roles whose names begin with one of `kinds`: it is their turn."""
        for role in self._of(kinds):
            role.done = True  # do not start it again
            self._end_turn(role)
            if role.process is not None:
                role.process.terminate()  # no effect on an ended process

    def await_end(self, may_wait: Callable[[], bool], *kinds: str) -> bool:
        """Waits for the roles of these kinds to end, as long as `may_wait` allows. Returns whether they have ended."""
        while self._living(kinds):
            if not may_wait():
                return False
            time.sleep(POLL_SECONDS)
        return True

    def kill(self, *kinds: str) -> None:
        """Kills the remaining roles of these kinds, and the processes they have started."""
        for role in self._living(kinds):
            self._say(f"{role.command.name} did not stop in time: killing it")
            assert role.process is not None
            role.done = True
            kill_session(role.process.pid)
            role.process.wait()

    def process_ids(self, kind: str) -> list[int]:
        """The process ids of the living roles of a kind."""
        return [role.process.pid for role in self._living((kind,)) if role.process is not None]

    def _living(self, kinds: Sequence[str]) -> list[_Role]:
        return [role for role in self._of(kinds) if role.process is not None and role.process.poll() is None]

    def _of(self, kinds: Sequence[str]) -> list[_Role]:
        return [role for role in self._roles if role.command.name.startswith(tuple(kinds))]

    def _end_turn(self, role: _Role) -> None:
        if role.turn is not None:
            os.close(role.turn)
            role.turn = None

    def _spawn(self, role: _Role) -> None:
        command = role.command
        self._end_turn(role)
        turn, role.turn = os.pipe()
        with command.log.open("ab") as log:
            role.process = subprocess.Popen(
                [sys.executable, "-P", "-m", command.module, *command.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(self._keep_open, turn),
                start_new_session=True,  # Ctrl-C only reaches the launcher, which stops the roles in order
                env={
                    # Roles share the cores: waiting threads must not spin (GNU OpenMP's default) while others could work.
                    "OMP_WAIT_POLICY": "PASSIVE",
                    **os.environ,
                    FORMAT_VARIABLE: TEXT,  # people read the logs of a local run, and so does `_plan_restart`
                    PARENT_VARIABLE: str(os.getpid()),
                    TURN_VARIABLE: str(turn),
                },
            )
        os.close(turn)
        self._guarded(role.process.pid)
        role.started, role.restart_at = time.monotonic(), None

    def _plan_restart(self, role: _Role, code: int, now: float) -> None:
        name, log = role.command.name, role.command.log
        lived = now - role.started
        if code == START_AGAIN:
            self._say(f"{name} starts again")
            role.restart_at = now
            return
        lines = last_lines(log)
        error = (
            next((line.partition(ERROR_MARK)[2] for line in reversed(lines) if ERROR_MARK in line), None) if code > 0 else None
        )
        if code == GIVE_UP:
            raise RunError(f"{name}: {error or describe(code)} (log: {log})")
        if code == 2 or (error is not None and role.restarts == 0 and lived < STARTUP_SECONDS):
            # The role's progress is unknown here, so the message does not claim that it could not start.
            raise RunError(f"{name} failed {lived:.0f} s after its start: {error or describe(code)} (log: {log})")
        role.failures = 1 if lived >= HEALTHY_SECONDS else role.failures + 1
        if code == -signal.SIGKILL:  # from a person, or from the kernel for lack of memory: no sign that it cannot start
            role.failures = min(role.failures, len(BACKOFF_SECONDS))
        if role.failures > len(BACKOFF_SECONDS):
            reason = error or (lines[-1] if lines else describe(code))
            raise RunError(f"{name} died {role.failures} times in a row, last with {describe(code)}: {reason} (log: {log})")
        delay = BACKOFF_SECONDS[role.failures - 1]
        self._say(f"{name} died ({describe(code)}): starting it again{f' in {delay:g} s' if delay else ''}")
        role.restart_at = now + delay
        role.restarts += 1


def last_lines(log: Path) -> list[str]:
    """The last lines of a log, without empty ones."""
    with log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - TAIL_BYTES))
        text = file.read().decode(errors="replace")
    return [line for line in text.splitlines() if line.strip()]
