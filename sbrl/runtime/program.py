"""How every program ends: one line per error, and its exit code. It imports little: commands begin with it."""

from __future__ import annotations

import errno
import importlib.util
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from sbrl.errors import RunError, SbrlError, UsageError
from sbrl.runtime.output import secure_output
from sbrl.runtime.parent_death import end_with_parent
from sbrl.telemetry.logs import report_bug, report_failure

# Errors of a file system that refuses, whatever the program does: no room, or no right to this file.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
_NO_USE = frozenset({errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP})


def run_program(main: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Runs `main` with the command line's arguments and exits with its result.

    The exit code is 0 or the returned one, 130 after Ctrl-C, 141 without a reader. An SbrlError gives one line on standard
    error and its own exit code, and so does a file system that is full or refuses a file. Any other exception is a bug and
    keeps its traceback.
    """
    secure_output()
    end_with_parent()
    code = _exit_code(lambda: main(sys.argv[1:]))
    logging.shutdown()
    # Reverb's native threads may wait for a server that is gone, and would abort the interpreter's own shutdown.
    os._exit(_exit_code(sys.stdout.flush) or code)


# For each extra of pyproject.toml, a package that only it installs, and the package's name for people.
_MARKS = {"report": ("scipy", "SciPy"), "s3": ("obstore", "obstore"), "train": ("torch", "PyTorch")}


def check_installed(command: str, extra: str = "train") -> None:
    """
    Raises:
        UsageError: SBRL is installed without the extra that the command needs (empty: none).
    """
    if not extra:
        return
    package, name = _MARKS[extra]
    if importlib.util.find_spec(package) is None:
        raise UsageError(
            f"sbrl {command} takes {name}, and SBRL is installed without it, to watch runs: call it where runs are, or "
            f"install the extra '{extra}' (pip install 'sbrl[{extra}]', or '.[{extra}]' -c constraints.txt in a checkout)"
        )


def describe(code: int) -> str:
    """How a process ended, from its return code: the signal if it is negative, else the exit code."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _exit_code(action: Callable[[], int | None]) -> int:
    """The exit code of a program after this action. Reports a failure."""
    try:
        return action() or 0
    except SbrlError as error:
        report_failure(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except SystemExit as exit_request:  # argparse: --help, or arguments it refuses
        return exit_request.code if isinstance(exit_request.code, int) else 2
    except Exception as error:
        if isinstance(error, OSError) and (error.errno in _NO_ROOM or (error.errno in _NO_USE and error.filename)):
            report_failure(RunError(f"cannot use {error.filename or 'a file'}: {error.strerror}"))
        else:
            report_bug()
        return 1
