"""Tries something out in a separate process with a time limit: a hang or a crash there is one line here."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import IO

from sbrl.errors import UsageError
from sbrl.runtime.parent_death import PARENT_VARIABLE
from sbrl.runtime.program import describe
from sbrl.telemetry.logs import ERROR_MARK, FORMAT_VARIABLE, TEXT


class TrialFailed(Exception):
    """The process ended without an error message of ours. This message says how, and has its last line."""

    def __init__(self, message: str, answers: list[str]) -> None:
        super().__init__(message)
        self.answers = answers  # its answers until then


def run_trial(module: str, *arguments: str, limit_seconds: float) -> list[str]:
    """Runs `python -m module arguments`, a program of ours, and returns the lines of its answer.

    No process that it starts outlives it.

    Raises:
        UsageError: it refused; the message is its own.
        TrialFailed: it crashed, or took longer than `limit_seconds`.
    """
    with tempfile.TemporaryFile("w+") as answered, tempfile.TemporaryFile("w+", errors="replace") as said:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=answered,
            stderr=said,
            start_new_session=True,  # so that its children can be ended with it
            env={**os.environ, FORMAT_VARIABLE: TEXT, PARENT_VARIABLE: str(os.getpid())},
        )
        try:
            code: int | None = process.wait(limit_seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        answers, words = (_lines(file) for file in (answered, said))
    if code == 0:
        return answers
    refusal = next((line for line in reversed(words) if line.startswith(ERROR_MARK)), None)
    if code == UsageError.exit_code and refusal is not None:
        raise UsageError(refusal.removeprefix(ERROR_MARK))
    how = f"took longer than {limit_seconds:g} s" if code is None else f"ended with {describe(code)}"
    raise TrialFailed(f"the process that tried it {how}{f', its last line: {words[-1]}' if words else ''}", answers)


def answer_alone() -> Callable[[str], None]:
    """In a trial: the function to answer with. From now on all other standard output goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(line: str) -> None:
        print(line, file=answers, flush=True)

    return answer


def _lines(file: IO[str]) -> list[str]:
    file.seek(0)
    return [line for line in file.read().splitlines() if line.strip()]
