"""Ends a process with the one that started it; as a program, `python -m sbrl.tether COMMAND...`, one that is not ours."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT_VARIABLE = "SBRL_PARENT"  # in the environment: the process that this one is not to outlive
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent() -> None:
    """Has the kernel send SIGTERM to this process when the one that PARENT_VARIABLE names dies, however it dies."""
    parent = os.environ.pop(PARENT_VARIABLE, None)
    if parent is None:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it died before that
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    end_with_parent()  # kept across exec
    os.execvp(sys.argv[1], sys.argv[1:])
