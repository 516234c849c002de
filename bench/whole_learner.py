"""The learner in a whole run beside the same update on resident data, in turns.

    python -m bench.whole_learner --turns 12 --seconds 5

A run of the default preset trains. In every other turn all its processes are stopped (SIGSTOP), and this process makes the same
updates from a memory of noise. The run's learner also has to receive, publish, save, report and answer, while its actors work
on the other cores. Ratios are of updates per second, and of updates per second of the learner's CPU time, which a busy machine
disturbs less.
"""

from __future__ import annotations

import argparse
import resource
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from bench.learner import one_block
from bench.traffic import progress_of, running, wait_for_updates
from learner.algorithm.update import configure_torch
from learner.block import BLOCK_UPDATES
from sbrl.config import load
from sbrl.errors import RunError
from sbrl.monitor.observation import processes_of
from sbrl.runtime.arguments import whole_number
from sbrl.runtime.program import run_program

FIRST_UPDATES = 300  # before the measurement begins
SETTINGS = ("replay.min_size=1000", "run.env_steps=10000000", "evaluator.interval_env_steps=10000000")


class Work(NamedTuple):
    """The work of one side over all its turns."""

    updates: int
    seconds: float
    cpu_seconds: float


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=whole_number(1, 1000), default=12, help="of each side (12)")
    parser.add_argument("--seconds", type=whole_number(2, 8), default=5, help="of a turn (5); a lease outlives it")
    parser.add_argument("--preset", default="small-batch", help="on Atari (small-batch)")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of the run's config")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="sbrl-bench-") as folder:
        whole, resident = measure(
            Path(folder) / "run", arguments.preset, (*SETTINGS, *arguments.settings), arguments.turns, arguments.seconds
        )
    print("| | updates | updates/s | processor time of an update, ms |\n|---|---|---|---|")
    for name, work in (("whole run", whole), ("resident data", resident)):
        cpu = 1000 * work.cpu_seconds / work.updates
        print(f"| {name} | {work.updates:,} | {work.updates / work.seconds:.1f} | {cpu:.2f} |")
    speed = whole.updates / whole.seconds / (resident.updates / resident.seconds)
    cpu = resident.cpu_seconds / resident.updates / (whole.cpu_seconds / whole.updates)
    print(f"| whole / resident | | {speed:.3f} | {cpu:.3f} |")


def measure(directory: Path, preset: str, settings: Sequence[str], turns: int, seconds: int) -> tuple[Work, Work]:
    """The run's work, and the work of the same update on resident data."""
    with running(directory, settings, preset) as client:
        wait_for_updates(client, FIRST_UPDATES)
        config = load(directory / "run.yaml")
        configure_torch(1)
        block = one_block(config)
        block()  # warm-up
        processes = [psutil.Process(process.process_id) for process in processes_of(directory)]
        (learner,) = [psutil.Process(process.process_id) for process in processes_of(directory) if process.name == "learner"]
        before, cpu_before, whole_seconds = progress_of(client).updates, sum(learner.cpu_times()[:2]), 0.0
        updates, resident_seconds, resident_cpu = 0, 0.0, 0.0
        for _ in range(turns):
            start = time.monotonic()
            time.sleep(seconds)  # a turn of the run
            signal_all(processes, signal.SIGSTOP)
            whole_seconds += time.monotonic() - start
            try:
                start, cpu = time.monotonic(), own_cpu_seconds()
                while time.monotonic() - start < seconds:
                    block()
                    updates += BLOCK_UPDATES
                resident_seconds += time.monotonic() - start
                resident_cpu += own_cpu_seconds() - cpu
            finally:
                signal_all(processes, signal.SIGCONT)
        after, cpu_after = progress_of(client).updates, sum(learner.cpu_times()[:2])
    if after <= before:
        raise RunError(f"the learner made no update in {whole_seconds:.0f} s")
    return Work(after - before, whole_seconds, cpu_after - cpu_before), Work(updates, resident_seconds, resident_cpu)


def signal_all(processes: Sequence[psutil.Process], number: int) -> None:
    """
    Raises:
        RunError: a role has ended.
    """
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            raise RunError(f"process {process.pid} of the run has ended") from None


def own_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    run_program(main)
