"""`sbrl train` on Pong: seconds to the first update and where they go, then env steps per second.

python -m bench.whole_run --steps 20000
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from bench.figures import Figure
from bench.peers.client import RUNS, started, timed
from bench.progress import Tick, silent
from sbrl import config as configs
from sbrl.coordination.fleet import FleetClient
from sbrl.errors import RunError
from sbrl.monitor.run_status import RunStatus
from sbrl.rpc.channels import CoordinatorUnavailable
from sbrl.runtime.arguments import whole_number
from sbrl.runtime.program import run_program
from sbrl.v1.fleet_pb2 import GetStatusResponse

POLL_SECONDS = 0.05
LIMIT_SECONDS = 900.0
STOP_SECONDS = 60.0
AIM_SECONDS = 8.0  # from `sbrl train` to the first update
PEER_SHARE = 8  # a peer takes env steps / this: it fills no replay before its first update
PEER_ENVS = 8  # games in a peer's run: as many as one of our actors has


class Course(NamedTuple):
    """The course of a run, in seconds since `sbrl train` was called."""

    marks: dict[str, float]  # when each event was first seen, in this order
    processor: dict[str, float]  # CPU seconds of each process until then, which other load on the machine does not change
    rate: float  # env steps per second from the first update on


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=whole_number(2000, 2**31), default=20_000, help="env steps (20,000)")
    parser.add_argument("--batch-size", type=whole_number(1, 4096), default=8)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    arguments = parser.parse_args(argv)
    course = watch(arguments.steps, [f"learner.batch_size={arguments.batch_size}", *arguments.overrides])
    for name, seconds in course.marks.items():
        print(f"{seconds:6.1f} s  {name}")
    for name, seconds in course.processor.items():
        print(f"{seconds:6.1f} s  of a core: {name}")
    print(f"{course.rate:,.0f} env steps/s from the first update on")


def figures(steps: int, batch_sizes: Sequence[int], peers: bool, turns: int, tick: Tick = silent) -> list[Figure]:
    """Figures of the run at each batch size, in turns with peers, and of its start at the first batch size."""
    found, courses = [], []
    done, total = 0, len(batch_sizes) * turns
    for size in batch_sizes:
        rates: dict[str, list[float]] = {"": [], **({name: [] for name in RUNS} if peers else {})}
        learner = configs.load().learner
        settings = {"batch_size": size, "learning_rate": learner.learning_rate, "adam_epsilon": learner.adam_epsilon}
        for _ in range(turns):
            course = watch(steps, [f"learner.batch_size={size}"])
            courses.append(course)
            rates[""].append(course.rate)
            with started(RUNS if peers else {}, {**settings, "envs": PEER_ENVS}, threads=2) as processes:
                for name, rate in timed(processes, steps // PEER_SHARE).items():
                    rates[name].append(rate)
            done += 1
            tick(done / total)
        ours = rates.pop("")
        found.append(Figure.of_turns("run", f"Pong, batch {size}, 0.25 updates per step", "env steps/s", ours, peers=rates))
    return [*found, *start_figures(courses)]


def start_figures(courses: Sequence[Course]) -> list[Figure]:
    """The seconds until each event is first seen; the last one beside its aim."""
    *names, last = courses[0].marks
    rows = [Figure.of_turns("run", f"start: {name}", "s", [course.marks[name] for course in courses]) for name in names]
    seconds = [course.marks[last] for course in courses]
    used = [sum(course.processor.values()) for course in courses]
    rows.append(Figure.of_turns("run", "start: seconds of a core, all processes until then", "s", used))
    aim = {"limit_name": "aim", "limit": [AIM_SECONDS]}
    return [*rows, Figure.of_turns("run", f"start: {last}", "s", seconds, **aim, less_is_better=True)]  # type: ignore[arg-type]


def watch(steps: int, overrides: Sequence[str]) -> Course:
    """Makes a run and watches it until its steps are collected, then stops it.

    Raises:
        RunError: the run fails.
    """
    with tempfile.TemporaryDirectory(prefix="sbrl-bench-") as folder:
        run = Path(folder) / "run"
        settings = [f"run.env_steps={steps}", "evaluator.interval_env_steps=1000000000", *overrides]
        command = [sys.executable, "-P", "-m", "sbrl.cli", "train", "--run-dir", str(run), *settings]
        with (Path(folder) / "output").open("w+", encoding="utf-8") as output:
            start = time.monotonic()
            with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output) as process:
                try:
                    return _course(process, run, steps, start)
                except RunError as error:
                    output.seek(0)
                    raise RunError(f"{error}: {output.read().strip()}") from None
                finally:
                    _stop(process)


def _course(process: subprocess.Popen[bytes], run: Path, steps: int, start: float) -> Course:
    while not (run / "run.yaml").exists():
        _look(process, start)
    marks = {"probed, run.yaml written": time.monotonic() - start}
    config = configs.load(run / "run.yaml")
    client = FleetClient(config.network.coordinator_address)
    first: tuple[float, int] | None = None
    processor: dict[str, float] = {}
    try:
        while True:
            _look(process, start)
            try:
                answer = client.status()
            except CoordinatorUnavailable:
                continue
            now = time.monotonic() - start
            status = RunStatus.of(answer, config.min_replay_size)
            for name in _seen(answer, status, config.min_replay_size):
                marks.setdefault(name, now)
            if status.updates and first is None:
                first, processor = (now, status.env_steps), _processor_seconds(process.pid)
            if first is not None and status.env_steps >= steps:
                return Course(marks, processor, (status.env_steps - first[1]) / (now - first[0]))
    finally:
        client.close()


def _seen(answer: GetStatusResponse, status: RunStatus, min_size: int) -> list[str]:
    """The events that a run shows so far, in order."""
    roles = {member.role for member in answer.members}
    shown = [
        ("coordinator answers", True),
        ("shards have joined", "replay" in roles),
        ("an actor has joined", "actor" in roles),
        ("learner has joined", "learner" in roles),
        ("first env step", status.env_steps > 0),
        (f"{min_size:,} transitions received", status.received >= min_size),
        ("first update", status.updates > 0),
    ]
    return [name for name, is_seen in shown if is_seen]


def _processor_seconds(launcher: int) -> dict[str, float]:
    """CPU seconds of the launcher and all its children, including ended ones, by the program that each runs."""
    seconds: dict[str, float] = {}
    top = psutil.Process(launcher)
    for process in [top, *top.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            words, times = process.cmdline(), process.cpu_times()
            name = words[words.index("--name") + 1] if "--name" in words else "launcher" if process is top else "others"
            used = times.user + times.system + times.children_user + times.children_system
            seconds[name] = seconds.get(name, 0.0) + used
    return seconds


def _look(process: subprocess.Popen[bytes], start: float) -> None:
    """Waits a moment.

    Raises:
        RunError: the run has ended, or takes too long.
    """
    if process.poll() is not None:
        raise RunError(f"the run to be measured ended with code {process.returncode}")
    if time.monotonic() - start > LIMIT_SECONDS:
        raise RunError(f"the run to be measured was not done after {LIMIT_SECONDS:g} s")
    time.sleep(POLL_SECONDS)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stops it quickly, because nothing of the run is needed."""
    for _ in range(3):
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS / 30)
            except subprocess.TimeoutExpired:
                continue
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


if __name__ == "__main__":
    run_program(main)
