"""Injects faults into a local run with a Prometheus: records which alert fires, when, and what `doctor` says.

`make faults` takes over half an hour and writes the table of docs/runbook.md. With --pictures it also draws the dashboards from
the data in that Prometheus. Exit code 1: an alert did not fire or clear, the doctor did not name the fault, or a panel is
empty.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from sbrl.config import load
from sbrl.coordination.fleet import FleetClient
from sbrl.coordination.fleet_watch import total
from sbrl.errors import RunError
from sbrl.monitor.doctor import WRONG
from sbrl.monitor.observation import DIRECT, processes_of
from sbrl.v1.fleet_pb2 import GetStatusResponse

ROOT = Path(__file__).resolve().parent.parent
RUNBOOK = ROOT / "docs" / "runbook.md"
BEGIN, END = "<!-- BEGIN faults (written by scripts/faults.py) -->\n", "<!-- END faults -->\n"  # marks of the table in RUNBOOK
ADDRESS = re.compile(r"prometheus: http://(127\.0\.0\.1:\d+)/")  # in the output of `sbrl train --prometheus`
POLL_SECONDS = 2.0
START_SECONDS = 600.0
HEALTHY_SECONDS = 300.0  # of a healthy run, before the first fault
CLEAR_SECONDS = 1200.0
STOP_SECONDS = 300.0
SETTINGS = (
    "env.id=CartPole-v1",
    "agent.hidden_size=32",
    "agent.num_quantiles=16",
    "learner.publish_period=50",
    "evaluator.interval_env_steps=20000",
    "evaluator.episodes=2",
    "evaluator.num_envs=2",
    "run.env_steps=100000000",
    "run.checkpoint_interval_seconds=30",
    "replay.min_size=1000",
    "replay.capacity=100000",
    "replay.checkpoint_interval_seconds=60",
    "actors.num_actors=1",
)


class Fault(NamedTuple):
    """One fault: what is done to which process, and the alert that must fire."""

    title: str
    process: str
    alert: str
    limit_seconds: float
    named: str  # text that the doctor's first finding must contain
    duty: float = 0.0  # share of each second that the process may run


FAULTS = (
    Fault("a shard is stopped (SIGSTOP)", "replay-1", "SbrlShardDown", 300, "replay-1's process"),
    Fault("the learner is frozen (SIGSTOP)", "learner", "SbrlLearnerNotUpdating", 600, "learner's process"),
    Fault("the coordinator is cut off (SIGSTOP)", "coordinator", "SbrlCoordinatorDown", 300, "the coordinator's process"),
    Fault(
        "the actor is slow (runs a fiftieth of the time)",
        "actor-0",
        "SbrlLearnerStarved",
        1500,
        "the learner waits for the actors",
        duty=0.02,
    ),
)
ALERTS = {fault.alert for fault in FAULTS}


class Outcome(NamedTuple):
    """The outcome of a fault. Times are in seconds since its beginning or its end."""

    fault: Fault
    pending: float | None
    firing: float | None
    cleared: float | None
    others: list[str]
    doctor: str
    doctor_code: int

    @property
    def shortcoming(self) -> str:
        """What went wrong; empty if nothing did."""
        if self.firing is None or self.cleared is None:
            return f"{self.fault.title}: {self.fault.alert} did not {'fire' if self.firing is None else 'clear'}"
        if self.fault.named not in self.doctor or self.doctor_code != WRONG:
            return f"{self.fault.title}: the doctor says {self.doctor!r} ({self.doctor_code})"
        return ""


class Watched:
    """A run with a Prometheus beside it."""

    def __init__(self, directory: Path, prometheus_address: str) -> None:
        self.directory, self.prometheus = directory, prometheus_address

    def status(self) -> GetStatusResponse | None:
        config_path = self.directory / "run.yaml"
        if not config_path.is_file():
            return None
        client = FleetClient(load(config_path).network.coordinator_address)
        try:
            return client.status(timeout=2.0)
        except RunError:
            return None
        finally:
            client.close()

    def process_id(self, name: str) -> int:
        status = self.status()
        assert status is not None, "no coordinator"
        return next(int(member.process_id) for member in status.members if member.name == name and member.alive)

    def alerts(self) -> dict[str, str]:
        """The state of each pending or firing alert."""
        found: list[dict[str, Any]] = self.ask("alerts")["alerts"]
        states: dict[str, str] = {}
        for alert in found:
            name = alert["labels"]["alertname"]
            states[name] = "firing" if "firing" in (alert["state"], states.get(name)) else alert["state"]
        return states

    def ask(self, what: str, **query: str) -> Any:
        """The data of Prometheus' answer: /api/v1/`what`."""
        with DIRECT.open(f"http://{self.prometheus}/api/v1/{what}?{urlencode(query)}", timeout=30) as response:
            return json.load(response)["data"]

    def firing(self) -> list[str]:
        return sorted(name for name, state in self.alerts().items() if state == "firing")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where the run goes, to be kept (default: a temporary folder)")
    parser.add_argument("--document", action="store_true", help="write the table into docs/runbook.md")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="draw the dashboards at the end, into this folder")
    arguments = parser.parse_args()
    outcomes, drawn = [], True
    with folder_for(arguments.keep) as folder, watched_run(folder) as run:
        wait_until(lambda: is_training(run.status()), "training", START_SECONDS)
        time.sleep(HEALTHY_SECONDS)
        for fault in FAULTS:
            wait_until(lambda: not ALERTS & set(run.alerts()), "quiet before the fault", CLEAR_SECONDS)
            outcomes.append(inject(run, fault))
            print(table(outcomes[-1:]), flush=True)
        if arguments.pictures is not None:
            draw = [sys.executable, "-m", "scripts.dashboard_pictures", run.prometheus, str(arguments.pictures)]
            drawn = subprocess.run(draw, cwd=ROOT, check=False).returncode == 0  # it prints the panels without data itself
    if arguments.document:
        document(RUNBOOK, BEGIN, table(outcomes), END)
    wrong = [outcome.shortcoming for outcome in outcomes if outcome.shortcoming]
    sys.exit("; ".join(wrong) if wrong else int(not drawn))


@contextmanager
def folder_for(kept: Path | None) -> Iterator[Path]:
    """The folder to work in: `kept`, or a temporary one that is deleted."""
    if kept is None:
        with tempfile.TemporaryDirectory(prefix="sbrl-faults-") as folder:
            yield Path(folder)
    else:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.resolve()


@contextmanager
def watched_run(folder: Path, settings: Sequence[str] = SETTINGS) -> Iterator[Watched]:
    """Starts a run of all roles with its Prometheus, and ends both together."""
    directory, output = folder / "run", folder / "run.log"
    train = [sys.executable, "-m", "sbrl.cli", "train", "--prometheus", "--run-dir", str(directory), *settings]
    with output.open("wb") as log:
        trainer = subprocess.Popen(train, cwd=ROOT, stdout=log, stderr=log)
        try:
            wait_until(lambda: trainer.poll() is not None or address_in(output) is not None, "prometheus", START_SECONDS)
            found = address_in(output)
            assert found is not None, output.read_text(encoding="utf-8")
            yield Watched(directory, found)
        finally:
            trainer.terminate()
            try:
                trainer.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                trainer.kill()
                trainer.wait()
            wait_until(lambda: not processes_of(directory), "end of all roles", STOP_SECONDS)


def address_in(output: Path) -> str | None:
    """Prometheus' address in the trainer's output."""
    found = ADDRESS.search(output.read_text(encoding="utf-8"))
    return None if found is None else found[1]


def is_training(status: GetStatusResponse | None) -> bool:
    return status is not None and status.progress.updates > 1000 and total(status, "evaluator.evaluations") >= 1


def inject(run: Watched, fault: Fault) -> Outcome:
    """Injects a fault, waits for its alert, asks the doctor, ends the fault, and waits until its alerts have cleared."""
    before = set(run.firing())
    process_id = run.process_id(fault.process)
    over = threading.Event()
    throttle = threading.Thread(target=hold, args=(process_id, fault.duty, over), daemon=True)
    start = time.monotonic()
    throttle.start()
    pending = firing = None
    try:
        while time.monotonic() - start < fault.limit_seconds and firing is None:
            state = run.alerts().get(fault.alert)
            if state is not None and pending is None:
                pending = time.monotonic() - start
            if state == "firing":
                firing = time.monotonic() - start
            time.sleep(POLL_SECONDS)
        others = sorted(set(run.firing()) - before - {fault.alert})
        doctor = subprocess.run(
            [sys.executable, "-m", "sbrl.monitor.doctor", str(run.directory)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        over.set()
        throttle.join()
    end = time.monotonic()
    try:
        wait_until(lambda: not {fault.alert, *others} & set(run.firing()), "quiet after the fault", CLEAR_SECONDS)
        cleared = time.monotonic() - end
    except TimeoutError:
        cleared = None
    return Outcome(fault, pending, firing, cleared, others, first_finding(doctor.stdout), doctor.returncode)


def hold(process_id: int, duty: float, over: threading.Event) -> None:
    """Stops a process until `over` is set. It may run for the share `duty` of each second."""
    try:
        while not over.is_set():
            os.kill(process_id, signal.SIGSTOP)
            over.wait(1.0 - duty)
            if duty:
                os.kill(process_id, signal.SIGCONT)
                over.wait(duty)
    finally:
        os.kill(process_id, signal.SIGCONT)


def first_finding(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith(("wrong: ", "1. "))]
    return lines[0].partition(" ")[2] if lines else text.strip()


def wait_until(condition: Callable[[], bool], what: str, timeout: float) -> None:
    """Polls until `condition` holds.

    Raises:
        TimeoutError: the condition did not hold in time.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} within {timeout:.0f} s")
        time.sleep(POLL_SECONDS)


def document(page: Path, begin: str, text: str, end: str) -> None:
    """Replaces the text between two lines of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def table(outcomes: list[Outcome]) -> str:
    """The outcomes as a Markdown table."""
    lines = [
        "| fault | alert | pending after | firing after | quiet again after | also firing | `sbrl doctor` (exit code) |",
        "|---|---|---|---|---|---|---|",
    ]
    for outcome in outcomes:
        times = ["never" if value is None else f"{value:.0f} s" for value in outcome[1:4]]
        also = ", ".join(outcome.others) or "none"
        said = f"{outcome.doctor} ({outcome.doctor_code})"
        lines.append(f"| {' | '.join([outcome.fault.title, outcome.fault.alert, *times, also, said])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
