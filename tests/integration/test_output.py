"""Output that goes away: a run continues without it, and a command that only prints ends like other commands."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sbrl.runtime.output import EXIT_NO_READER

WAIT = 30.0
FULL = "sbrl: error: cannot write to standard output: No space left on device\n"
HEAD = (
    "import sys\nfrom pathlib import Path\n"
    "from sbrl.runtime.program import run_program\nfrom sbrl.runtime.output import outlive_output\n"
)
SHORT = f"{HEAD}def main(argv):\n    print('x' * 100_000)\n    return 0\nrun_program(main)\n"
RUN = f"""{HEAD}
def main(argv):
    outlive_output()
    for number in range(20):
        print('x' * 10_000, flush=True)
        print('y', file=sys.stderr)
    Path(argv[0]).write_text('done')
    print('the end')
run_program(main)
"""


@contextmanager
def output(kind: str) -> Iterator[int]:
    """A file descriptor to write to."""
    if kind == "full disk":
        descriptor = os.open("/dev/full", os.O_WRONLY)
        yield descriptor
    else:
        read_end, descriptor = os.pipe()
        if kind == "no reader":
            os.close(read_end)
        yield descriptor
        if kind == "idle reader":
            os.close(read_end)
    os.close(descriptor)


def command(program: str, *arguments: str, shell: str = "") -> list[str]:
    """A program, with its standard streams redirected as a shell does it."""
    own = [sys.executable, "-c", program, *arguments]
    return ["sh", "-c", f'exec "$@" {shell}', "sh", *own] if shell else own


@pytest.mark.parametrize(("kind", "code", "error"), [("no reader", EXIT_NO_READER, ""), ("full disk", 1, FULL)])
@pytest.mark.parametrize("program", [SHORT, SHORT.replace("100_000", "1")], ids=["much", "little"])
def test_a_short_command_ends(program: str, kind: str, code: int, error: str) -> None:
    with output(kind) as descriptor:
        done = subprocess.run(command(program), stdout=descriptor, stderr=subprocess.PIPE, text=True, timeout=WAIT, check=False)
    assert (done.returncode, done.stderr) == (code, error)


@pytest.mark.parametrize("kind", ["no reader", "full disk", "idle reader"])
def test_a_run_goes_on(tmp_path: Path, kind: str) -> None:
    with output(kind) as descriptor:
        done = subprocess.run(
            command(RUN, str(tmp_path / "end")), stdout=descriptor, stderr=descriptor, timeout=WAIT, check=False
        )
    assert done.returncode == 0
    assert (tmp_path / "end").read_text() == "done"


@pytest.mark.parametrize("shell", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_at_the_start(tmp_path: Path, shell: str) -> None:
    """Messages go nowhere, not into a file of the program, and error messages do not go to standard output."""
    done = subprocess.run(command(RUN, str(tmp_path / "end"), shell=shell), capture_output=True, timeout=WAIT, check=False)
    assert done.returncode == 0
    assert (tmp_path / "end").read_text() == "done"
    assert (b"x" in done.stdout) == (">&-" not in shell.replace("2>&-", ""))
    assert (b"y" in done.stderr) == ("2>&-" not in shell)
    assert b"y" not in done.stdout


@pytest.mark.parametrize("arguments", [["config", "schema"], ["--help"], ["actor", "--help"]], ids=" ".join)
def test_commands_end_quietly_without_a_reader(arguments: list[str]) -> None:
    with output("no reader") as descriptor:
        done = subprocess.run(
            [sys.executable, "-m", "sbrl.cli", *arguments], stdout=descriptor, stderr=subprocess.PIPE, timeout=WAIT, check=False
        )
    assert (done.returncode, done.stderr) == (EXIT_NO_READER, b"")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            'PermissionError(errno.EACCES, "Permission denied", "a/run.yaml")',
            "sbrl: error: cannot use a/run.yaml: Permission denied\n",
        ),
        ('OSError(errno.ENOSPC, "No space left on device")', "sbrl: error: cannot use a file: No space left on device\n"),
        ('FileNotFoundError(errno.ENOENT, "No such file or directory", "part-of-sbrl")', None),
        ('PermissionError(errno.EPERM, "Operation not permitted")', None),  # no file: a process, for example
    ],
)
def test_a_file_system_that_refuses_is_no_bug(error: str, line: str | None) -> None:
    program = f"{HEAD}import errno\ndef main(argv):\n    raise {error}\nrun_program(main)\n"
    done = subprocess.run(command(program), capture_output=True, text=True, timeout=WAIT, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr if line is None else done.stderr == line


@pytest.mark.parametrize(
    "arguments",
    [["doctor"], ["report"], ["train", "--resume", "--run-dir"], ["study", "status", "pilot", "--results"]],
    ids=" ".join,
)
def test_a_path_that_cannot_be_looked_at_gives_one_line(arguments: list[str]) -> None:
    path = "x" * 300  # longer than a file's name may be; a folder without rights ends likewise, but not for root
    run = [sys.executable, "-m", "sbrl.cli", *arguments, path]
    done = subprocess.run(run, capture_output=True, text=True, timeout=WAIT, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"sbrl: error: cannot use {path}")
    assert done.stderr.count("\n") == 1
