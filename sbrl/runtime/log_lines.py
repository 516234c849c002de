"""Turns every line that a program writes into one JSON object.

`python -m sbrl.runtime.log_lines ROLE NAME RUN_ID COMMAND...`.

Native libraries (Reverb, TensorFlow, CUDA) write to standard error in their own format, especially when they abort. This
process outlives the program, so that its last line is not lost. It forwards signals and ends with the program's exit code. If a
program asks for a restart, this process restarts it at once: Kubernetes would see a crash and wait longer each time.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

from sbrl.errors import START_AGAIN
from sbrl.runtime.output import secure_output
from sbrl.runtime.parent_death import PARENT_VARIABLE
from sbrl.telemetry.logs import ERROR_MARK, WARNING_MARK, Context, json_line

NATIVE = "output"  # the logger's name for lines that no logger wrote
HANDED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
GOES_ON = (signal.SIGUSR1, signal.SIGUSR2)  # these do not ask a program to end


def main() -> int:
    secure_output()
    role, name, run_id, *command = sys.argv[1:]
    context = Context(role, name, run_id)
    received: list[int] = []  # signals received while no program runs
    told_to_end = False
    program: subprocess.Popen[str] | None = None

    def hand_on(number: int, frame: FrameType | None) -> None:
        nonlocal told_to_end
        told_to_end = told_to_end or number not in GOES_ON
        if program is None:
            received.append(number)
        else:
            program.send_signal(number)

    for number in HANDED_ON:
        if signal.getsignal(number) is not signal.SIG_IGN:  # ignored by nohup, for example: the program ignores it, too
            signal.signal(number, hand_on)
    while True:
        program = _start(command)
        while received:
            program.send_signal(received.pop(0))
        assert program.stdout is not None
        for line in without_repeats(program.stdout):
            if wrapped := as_json(context, line.rstrip("\n")):
                print(wrapped, file=sys.stderr, flush=True)
        code = program.wait()
        program = None  # before the check: a later signal is for the next program
        if code != START_AGAIN or told_to_end:
            return 128 - code if code < 0 else code  # as shells report signals


def _start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="backslashreplace",
        env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
    )


def without_repeats(lines: Iterable[str]) -> Iterator[str]:
    """Drops lines that no logger wrote and that differ from the line before only in numbers, and adds their count.

    During a restore, for example, Reverb reports about a hundred times a minute that it is still reading.
    """
    before, left_out = "", 0
    for line in lines:
        logged = line.startswith((ERROR_MARK, WARNING_MARK)) or _event(line) is not None
        shape = "" if logged else re.sub(r"\d+", "0", line.strip())
        if shape and shape == before:
            left_out += 1
            continue
        if left_out:
            yield f"the line before came {left_out} more times with other numbers\n"
        before, left_out = shape, 0
        yield line
    if left_out:
        yield f"the line before came {left_out} more times with other numbers\n"


def as_json(context: Context, line: str) -> str:
    """A line of output as an event. A line that is already an event stays as it is; an empty line gives an empty text."""
    if not line.strip():
        return ""
    event = _event(line)
    if event is not None:
        # A process that fails before it has read its config does not know who it is.
        return line if event.get("role") else json.dumps({**event, **context._asdict()}, ensure_ascii=False)
    for mark, level in ((ERROR_MARK, "ERROR"), (WARNING_MARK, "WARNING")):
        if line.startswith(mark):
            return json_line(context, time.time(), level, line.removeprefix(mark), "sbrl")
    return json_line(context, time.time(), "INFO", line, NATIVE)


def _event(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


if __name__ == "__main__":
    sys.exit(main())
