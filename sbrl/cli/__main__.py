"""The command line: finds the program that a command means. It imports little: most commands are programs of their own."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sbrl.runtime.program import check_installed, run_program
from sbrl.telemetry.logs import JSON, Context, log_format

# Roles and tools are started by module name: sbrl imports none of them.
PROGRAMS = {
    "replay": ("services.replay", "one replay shard"),
    "coordinator": ("services.coordinator", "weights, fleet leases and the episode log"),
    "actor": ("actors", "steps environments and writes transitions"),
    "learner": ("learner", "trains on batches from the shards"),
    "evaluator": ("services.evaluator", "runs the evaluation protocol during a run"),
    "eval": ("services.evaluator.evaluate", "run the evaluation protocol on a checkpoint of a run directory"),
    "play": ("services.evaluator.play", "make a video of a checkpoint of a run directory"),
    "doctor": ("sbrl.monitor.doctor", "say what blocks what in a running run, here or on Kubernetes, and what to change"),
    "top": ("sbrl.monitor.top", "watch a run, here or on Kubernetes"),
    "study": ("studies", "compare settings over seeds and environments: plan, run, status"),
    "bench": ("bench", "measure learner, replay, actor and a whole run beside their limits: JSON and a chart"),
    "tune": ("studies.search", "search settings of a study jointly: batch size, learning rate, beta2, update rate"),
    "report": ("studies.report", "show what a study's results or run directories come to: one HTML page, Markdown, CSV"),
    "backup": ("sbrl.backup", "copy what a run keeps to a folder or a bucket, while it goes on"),
    "restore": ("sbrl.backup.restore", "put a backup where a run can go on from it"),
    "controller": ("services.controller", "scales the actors of a run on Kubernetes"),
    "scale": ("sbrl.cluster.scale", "set the number of actors of a release on Kubernetes"),
    "status": ("sbrl.cluster.status", "show a release on Kubernetes: pods, ratio, who waits for whom"),
}
RELEASE_OPTIONS = frozenset({"-n", "--namespace", "--release", "--context", "--kubeconfig"})
# They take more than what watches runs.
OF_RUNS = frozenset({"bench", "eval", "play", "study", "tune", "report", "replay", "actor", "learner", "evaluator"})
ROLES = frozenset({"coordinator", "replay", "learner", "actor", "evaluator", "controller"})


def main() -> None:
    """Entry point of the `sbrl` script."""
    run_program(run)


def run(argv: Sequence[str]) -> int:
    """Runs one command line (without the program's name) and returns its exit code."""
    if argv and argv[0] in PROGRAMS:
        if argv[0] in OF_RUNS:
            check_installed(argv[0])
        command = [sys.executable, "-P", "-m", PROGRAMS[argv[0]][0], *argv[1:]]
        if argv[0] in ("top", "doctor") and _names_a_release(argv[1:]):
            command = [sys.executable, "-P", "-m", "sbrl.cluster.watch", *argv]
        if argv[0] in ROLES and log_format() == JSON:
            command = [sys.executable, "-P", "-m", "sbrl.runtime.log_lines", *_log_context(argv[0], argv[1:]), *command]
        os.execv(sys.executable, command)
    from sbrl.cli.commands import make_parser

    parser = make_parser({name: description for name, (_, description) in PROGRAMS.items()})
    arguments, rest = parser.parse_known_args(argv)
    # argparse takes positional arguments in one piece only; people write options between overrides.
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
    """What is said of a role in lines that it did not log itself; its own parser says what is wrong with the arguments."""
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
