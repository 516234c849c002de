"""`sbrl top`: shows a running run, in place on a terminal and line by line elsewhere, until it is finished.

For a release on Kubernetes use -n, --release, --context or --kubeconfig instead of RUN_DIR.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sbrl.config import Config
from sbrl.coordination.fleet import ROLES, FleetClient, RunState
from sbrl.coordination.fleet_watch import run_state
from sbrl.errors import RunError
from sbrl.monitor.doctor import add_run_arguments, find_run
from sbrl.monitor.progress import ProgressMeter
from sbrl.monitor.readable import duration
from sbrl.monitor.run_status import config_of
from sbrl.monitor.view import line, panel
from sbrl.rpc.channels import CoordinatorUnavailable
from sbrl.runtime.arguments import Parser
from sbrl.runtime.program import run_program
from sbrl.v1.fleet_pb2 import GetStatusResponse, Member

SUBTITLE = "Ctrl-C ends this view, not the run"


def main(argv: Sequence[str]) -> int:
    parser = Parser(prog="sbrl top", description=__doc__)
    add_run_arguments(parser)
    add_view_arguments(parser)
    arguments = parser.parse_args(argv)
    address, config, directory = find_run(arguments)
    with closing(FleetClient(address)) as client:
        return watch(client, config, str(directory or address), arguments.interval, arguments.readings)


def add_view_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--interval", type=float, default=1.0, metavar="SECONDS", help="between two readings (default: %(default)g)"
    )
    parser.add_argument("--readings", type=int, metavar="N", help="end after so many readings (default: go on)")


def watch(client: FleetClient, config: Config | None, title: str, interval: float, readings: int | None) -> int:
    """Shows the run until it is finished or `readings` have been shown. Returns the exit code.

    Args:
        config: None takes the coordinator's config.
        interval: seconds between two readings.

    Raises:
        RunError: the coordinator does not know the config.
    """
    status = client.status()
    config = config or config_of(status)
    if config is None:
        raise RunError("the coordinator does not say what the run is meant to be: give its run.yaml with --config")
    with Screen(config, title) as screen:
        shown = 0
        while True:
            screen.show(status)
            shown += 1
            if shown == readings or run_state(status) is RunState.FINISHED:
                return 0
            time.sleep(max(0.1, interval))
            status = _next_status(client, status, screen)


class Screen:
    """On a terminal: the run's panel, with its members below. Elsewhere: a line for each reading."""

    def __init__(self, config: Config, title: str) -> None:
        self._config, self._title, self._meter = config, title, ProgressMeter(config)
        self._live = Live(console=Console(), refresh_per_second=4) if sys.stdout.isatty() else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, status: GetStatusResponse) -> None:
        progress = self._meter.read(status)
        if self._live is None:
            print(line(self._config, progress), flush=True)
        else:
            self._live.update(Group(panel(self._config, self._title, progress, SUBTITLE), members_panel(status)))

    def message(self, text: str) -> None:
        if self._live is None:
            print(text, flush=True)
        else:
            self._live.update(Panel(Text(text)))


def members_panel(status: GetStatusResponse) -> Panel:
    """Every member of the fleet with its lease and the main numbers of its work."""
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for heading in ("process", "heartbeat", "doing"):
        table.add_column(heading)
    for member in sorted(status.members, key=lambda one: (ROLES.index(one.role), one.index)):
        heartbeat = f"{duration(member.seconds_since_heartbeat)} ago" if member.alive else "gone"
        table.add_row(Text(member.name), Text(heartbeat, style="" if member.alive else "bold red"), Text(doing(member)))
    return Panel(table, title="processes")


def doing(member: Member) -> str:
    """A short summary of a member's own report."""
    counters, gauges = member.counters, member.gauges
    match member.role:
        case "actor":
            return (
                f"{counters.get('env_steps', 0):,.0f} steps, {counters.get('episodes', 0):,.0f} episodes, "
                f"weights v{gauges.get('weights_version', 0):.0f}, waited {duration(counters.get('blocked_seconds', 0))}"
            )
        case "replay":
            return (
                f"{gauges.get('log_segments', 0):,.0f} of {gauges.get('log_capacity', 0):,.0f} segments, "
                f"{gauges.get('queue_segments', 0):.0f} waiting for the learner, "
                f"{gauges.get('memory_used_bytes', 0) / 2**30:.1f} GiB"
            )
        case "learner":
            return (
                f"{counters.get('updates', 0):,.0f} updates, {gauges.get('memory_transitions', 0):,.0f} transitions, "
                f"loss {gauges.get('loss', 0):.4g}, "
                f"waited {duration(counters.get('blocked_seconds', 0))}, {gauges.get('shards_ready', 0):.0f} shards answer"
            )
        case "evaluator":
            return f"{counters.get('evaluations', 0):.0f} evaluations, the last with {gauges.get('return_mean', 0):.1f}"
        case _:
            return f"weights v{gauges.get('weights_version', 0):.0f}" if "weights_version" in gauges else ""


def _next_status(client: FleetClient, last: GetStatusResponse, screen: Screen) -> GetStatusResponse:
    """The next answer. If there is none, shows a message and returns the last one."""
    try:
        return client.status()
    except CoordinatorUnavailable as error:
        screen.message(f"{error}; asking again")
        return last


if __name__ == "__main__":
    run_program(main)
