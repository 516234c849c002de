"""Trains for an hour with a real Prometheus, and lists the alerts that were pending or fired.

`make quiet` plays Pong with the preset's settings, two shards and two actors. No alert should fire. Exit code 1: an alert
fired, or Prometheus did not see every role all the time, so that quiet would mean nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import NamedTuple

from sbrl.coordination.fleet_watch import total
from scripts.faults import (
    POLL_SECONDS,
    ROOT,
    START_SECONDS,
    Watched,
    document,
    folder_for,
    wait_until,
    watched_run,
)

PAGE = ROOT / "docs" / "runbook.md"
BEGIN, END = "<!-- BEGIN quiet (written by scripts/quiet.py) -->\n", "<!-- END quiet -->\n"
SETTINGS = ("env.id=ALE/Pong-v5", "run.env_steps=100000000", "replay.num_shards=2", "actors.num_actors=2")
LEAST_SEEN = 0.99  # of the scrapes of every target


class Seen(NamedTuple):
    """How long one alert was pending and firing, in minutes."""

    alert: str
    pending: float
    firing: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long it trains (default: %(default)s)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where the run goes, to be kept (default: a temporary folder)")
    parser.add_argument("--document", action="store_true", help="write the list into docs/runbook.md")
    arguments = parser.parse_args()
    with folder_for(arguments.keep) as folder, watched_run(folder, SETTINGS) as run:
        began = time.monotonic()
        wait_until(lambda: steps_of(run) > 0, "training", START_SECONDS)
        watch(run, began, 60 * arguments.minutes)
        minutes = (time.monotonic() - began) / 60
        alerts, targets = seen(run, minutes), scraped(run, minutes)
        status = run.status()
        assert status is not None, "no coordinator"
        steps, updates = steps_of(run), status.progress.updates
    text = table(alerts, targets, minutes, steps, updates)
    print(text)
    if arguments.document:
        document(PAGE, BEGIN, text, END)
    fired = [one.alert for one in alerts if one.firing]
    unseen = [f"{name} was up in {share:.1%} of its scrapes" for name, share in targets.items() if share < LEAST_SEEN]
    sys.exit("; ".join([*(f"{name} fired" for name in fired), *unseen]) or 0)


def steps_of(run: Watched) -> int:
    """Env steps of the run's actors; 0 while nobody answers."""
    status = run.status()
    return 0 if status is None else int(total(status, "actor.env_steps"))


def watch(run: Watched, began: float, seconds: float) -> None:
    """Waits, and prints progress and firing alerts every minute."""
    while (gone := time.monotonic() - began) < seconds:
        firing = ", ".join(run.firing()) or "none"
        print(f"{gone / 60:.0f} of {seconds / 60:.0f} min, {steps_of(run):,} steps, firing: {firing}", flush=True)
        time.sleep(max(POLL_SECONDS, min(60.0, seconds - gone)))


def seen(run: Watched, minutes: float) -> list[Seen]:
    """The result for every alert that Prometheus has a rule for."""
    groups = run.ask("rules", type="alert")["groups"]
    names = [rule["name"] for group in groups for rule in group["rules"]]
    interval = {rule["name"]: group["interval"] for group in groups for rule in group["rules"]}
    found = run.ask("query", query=f"max by (alertname, alertstate) (count_over_time(ALERTS[{minutes * 60:.0f}s]))")["result"]
    times = {(one["metric"]["alertname"], one["metric"]["alertstate"]): float(one["value"][1]) for one in found}
    return [
        Seen(name, *(times.get((name, state), 0.0) * interval[name] / 60 for state in ("pending", "firing"))) for name in names
    ]


def scraped(run: Watched, minutes: float) -> dict[str, float]:
    """The share of scrapes in which each target was up, by job and instance."""
    found = run.ask("query", query=f"avg_over_time(up[{minutes * 60:.0f}s])")["result"]
    return {" ".join(one["metric"][key] for key in ("job", "instance")): float(one["value"][1]) for one in found}


def table(alerts: list[Seen], targets: dict[str, float], minutes: float, steps: int, updates: int) -> str:
    """The results in Markdown."""
    fired = sum(bool(one.firing) for one in alerts)
    lines = [
        f"{minutes:.0f} minutes, {steps:,} steps, {updates:,} updates; {len(targets)} targets, each up in "
        f"{min(targets.values(), default=0):.1%} of its scrapes or more. Of {len(alerts)} alerts, {fired or 'none'} fired.",
        "",
        "| alert | pending, minutes | firing, minutes |",
        "|---|---|---|",
        *(f"| {one.alert} | {one.pending:.1f} | {one.firing:.1f} |" for one in alerts),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
