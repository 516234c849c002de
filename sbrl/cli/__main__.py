"""The command line: starts the program of a command. It imports little: most commands are separate programs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sbrl.cli.programs import PROGRAMS
from sbrl.runtime.program import check_installed, run_program
from sbrl.telemetry.logs import JSON, Context, log_format

RELEASE_OPTIONS = frozenset({"-n", "--namespace", "--release", "--context", "--kubeconfig"})


def main() -> None:
    """Entry point of the `sbrl` script."""
    run_program(run)


def run(argv: Sequence[str]) -> int:
    """Runs one command line (without the program's name) and returns its exit code."""
    if argv and argv[0] in PROGRAMS:
        program = PROGRAMS[argv[0]]
        check_installed(argv[0], program.extra)
        command = [sys.executable, "-P", "-m", program.module, *argv[1:]]
        if argv[0] in ("top", "doctor") and _names_a_release(argv[1:]):
            command = [sys.executable, "-P", "-m", "sbrl.cluster.watch", *argv]
        if program.role and log_format() == JSON:
            command = [sys.executable, "-P", "-m", "sbrl.runtime.log_lines", *_log_context(argv[0], argv[1:]), *command]
        os.execv(sys.executable, command)
    from sbrl.cli.commands import make_parser

    parser = make_parser({name: program.help for name, program in PROGRAMS.items()})
    arguments, rest = parser.parse_known_args(argv)
    # argparse only takes positional arguments in one block, but people write options between overrides.
    if rest and not (hasattr(arguments, "overrides") and all("=" in word and not word.startswith("-") for word in rest)):
        parser.refuse_unknown(rest)
    if rest:
        arguments.overrides += rest
    code: int = arguments.command(arguments)
    return code


def _names_a_release(argv: Sequence[str]) -> bool:
    """Whether the arguments name a release on Kubernetes rather than a run on this machine."""
    return any(word.partition("=")[0] in RELEASE_OPTIONS for word in argv)


def _log_context(role: str, argv: Sequence[str]) -> Context:
    """The context for output lines that a role did not log itself. The role's own parser reports bad arguments."""
    from sbrl.storage.metadata import run_id_of

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--name", default=role)
    try:
        arguments, _ = parser.parse_known_args(argv)
        return Context(role, arguments.name, run_id_of(arguments.config) if arguments.config is not None else "")
    except argparse.ArgumentError:
        return Context(role, role)


if __name__ == "__main__":
    main()
