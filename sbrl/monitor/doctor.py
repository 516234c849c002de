"""`sbrl doctor`: reports what is wrong with a running run, what blocks what, and what to change.

For a release on Kubernetes use -n, --release, --context or --kubeconfig instead of RUN_DIR.

Exit codes: 0 healthy, 1 something is wrong, 2 unknown.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from sbrl import config as configs
from sbrl.config import Config
from sbrl.errors import UsageError
from sbrl.monitor.diagnosis import Finding, diagnose
from sbrl.monitor.observation import Observation, observe, processes_of
from sbrl.monitor.summary import run_so_far
from sbrl.runtime.arguments import Parser
from sbrl.runtime.program import run_program
from sbrl.storage.run_directory import RunDirectory

HEALTHY, WRONG, UNKNOWN = 0, 1, 2
SECONDS = 5.0
UNKNOWN_CAUSES = frozenset({"unreachable", "unknown"})


def main(argv: Sequence[str]) -> int:
    parser = Parser(prog="sbrl doctor", description=__doc__)
    add_run_arguments(parser)
    add_time_argument(parser)
    arguments = parser.parse_args(argv)
    address, config, directory = find_run(arguments)
    if directory is not None and not processes_of(directory):
        return _not_running(directory)
    run = observe(address, config, directory, max(1.0, arguments.seconds))
    findings = diagnose(run)
    print(report(run, findings))
    return exit_code(findings)


def add_time_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, metavar="N", help="how long to look before judging (default: %(default)g)"
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that name a running run: its directory, or its coordinator's address."""
    parser.add_argument("run_dir", nargs="?", type=Path, metavar="RUN_DIR", help="of a run on this machine")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="of a run elsewhere, in a cluster say")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="with --coordinator: its run.yaml, where the coordinator does not answer"
    )


def find_run(arguments: argparse.Namespace) -> tuple[str, Config | None, Path | None]:
    """(the coordinator's address, the config if there is one, the directory of a run on this machine).

    Raises:
        UsageError: the arguments name a run in neither way or in both, or there is no run.
    """
    if (arguments.run_dir is None) == (arguments.coordinator is None):
        raise UsageError("name one run: give RUN_DIR for a run on this machine, or --coordinator HOST:PORT for any other")
    if arguments.coordinator is not None:
        return arguments.coordinator, arguments.config and configs.load(arguments.config), None
    if arguments.config is not None:
        raise UsageError("--config goes with --coordinator: a run directory has its own")
    directory = RunDirectory(arguments.run_dir)
    if not directory.config.is_file():
        raise UsageError(f"{directory.path} holds no run: it has no run.yaml")
    config = configs.load(directory.config)
    return config.network.coordinator_address, config, directory.path


def exit_code(findings: Sequence[Finding]) -> int:
    """The exit code for the findings."""
    wrong = [finding for finding in findings if finding.wrong]
    if not wrong:
        return HEALTHY
    return UNKNOWN if all(finding.cause in UNKNOWN_CAUSES for finding in wrong) else WRONG


def report(run: Observation, findings: Sequence[Finding]) -> str:
    """The findings as text for people, with the numbers of the run first."""
    wrong = [finding for finding in findings if finding.wrong]
    lines = [line for line in (headline(run),) if line]
    if not wrong:
        lines.append("healthy")
    for number, finding in enumerate(wrong, 1):
        lines.append(f"{number}. {finding.text}" if len(wrong) > 1 else f"wrong: {finding.text}")
        lines += [f"   do: {finding.remedy}"] if finding.remedy else []
    lines += [
        f"note: {finding.text}{f' ({finding.remedy})' if finding.remedy else ''}" for finding in findings if not finding.wrong
    ]
    return "\n".join(lines)


def headline(run: Observation) -> str:
    """The run's numbers in one line; empty if there are none yet."""
    if run.settings is None or run.run is None:
        return ""
    achieved = run.run.samples_per_insert
    return (
        f"{run.run.env_steps:,} of {run.settings.target_env_steps:,} env steps, "
        f"{run.rates.get('actor.env_steps', 0.0):.1f} steps/s, {run.updates_per_second:.1f} updates/s, "
        f"{'no' if achieved is None else f'{achieved:.3f}'} samples per insert ({run.settings.samples_per_insert:g} configured)"
    )


def _not_running(directory: Path) -> int:
    summary = run_so_far(RunDirectory(directory).summary)
    if summary.complete:
        print(f"the run in {directory} is complete, with {summary.env_steps:,} env steps; nothing is running")
        return HEALTHY
    print(
        f"no process of the run in {directory} is on this machine: go on with it by sbrl train --resume --run-dir {directory}"
    )
    return UNKNOWN


if __name__ == "__main__":
    run_program(main)
