"""Ends a process together with its parent.

`python -m sbrl.runtime.parent_death COMMAND...` does this for a program that is not ours.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
from typing import Self

PARENT_VARIABLE = "SBRL_PARENT"  # in the environment: the process that this one must not outlive
TURN_VARIABLE = "SBRL_TURN"  # in the environment: the file descriptor of a role's `Turn`
IN_ORDER = b"s"  # written to the `Turn`: all roles are being stopped in order
LAUNCHER_SECONDS = 2.0  # enough for a launcher that gets SIGTERM together with its roles to write IN_ORDER
TURN_SECONDS = 60.0  # longer than a launcher takes to stop all roles
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent() -> None:
    """Makes the kernel send SIGTERM to this process when the process in PARENT_VARIABLE dies, however it dies."""
    parent = os.environ.pop(PARENT_VARIABLE, None)
    if parent is None:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it has already died
        os.kill(os.getpid(), signal.SIGTERM)


def has_launcher() -> bool:
    """Whether a launcher has started this process as a role. Call this before its `Turn` is made."""
    return TURN_VARIABLE in os.environ


class Turn:
    """When a role may stop after SIGTERM: at once, unless its launcher is stopping all roles in order.

    Service managers and batch systems send SIGTERM to all processes of a run at once. If all stopped together, no role would
    receive the others' last data: transitions, checkpoints, episodes. The launcher holds the other end of a pipe. It writes
    IN_ORDER to it when a stop begins. It closes the pipe when it is this role's turn, or by dying.
    """

    def __init__(self, descriptor: int | None) -> None:
        """Args: descriptor: the pipe's end to read from; None: there is no launcher."""
        self._descriptor = descriptor

    @classmethod
    def from_environment(cls) -> Self:
        """The turn of this process. Call this once."""
        descriptor = os.environ.pop(TURN_VARIABLE, None)
        return cls(None if descriptor is None else int(descriptor))

    def wait(self) -> None:
        """Returns when this process may stop."""
        if self._descriptor is None or not select.select([self._descriptor], [], [], LAUNCHER_SECONDS)[0]:
            return
        if os.read(self._descriptor, 1) == IN_ORDER:
            select.select([self._descriptor], [], [], TURN_SECONDS)


if __name__ == "__main__":
    end_with_parent()  # stays in effect across exec
    os.execvp(sys.argv[1], sys.argv[1:])
