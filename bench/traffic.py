"""Bytes per transition from the shards to the learner, and its speed, cached and remote, at several ratios.

    python -m bench.traffic --seconds 20

Makes whole runs of the real programs on MinAtar with batch 8, two shards, and one actor that acts at random, so that all runs
collect alike. Each is measured for some seconds after its first updates, then ended. Bytes are what the learner's connections
to the shards received according to the kernel (`ss`): Reverb's compressed data with headers. The answers to the learner's
constant probes, two per second and shard, are subtracted: their rate is measured for the same time with the actor stopped
(SIGSTOP).
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from sbrl.config import load
from sbrl.coordination.fleet import FleetClient
from sbrl.errors import RunError
from sbrl.monitor.observation import processes_of
from sbrl.rpc.channels import CoordinatorUnavailable
from sbrl.runtime.arguments import whole_number
from sbrl.runtime.program import run_program
from sbrl.v1.fleet_pb2 import LearnerProgress

BATCH_SIZE = 8
RATIOS = (2, 8, 64, 256)  # samples per insert
FIRST_UPDATES = 300  # before the measurement begins
START_SECONDS, DRAIN_SECONDS, POLL_SECONDS, QUIET_SECONDS = 180.0, 900.0, 0.5, 5.0
_RECEIVED = re.compile(r"bytes_received:(\d+)")


class TrafficReading(NamedTuple):
    """A reading at one moment. Everything except the time is cumulative."""

    time: float
    received: int  # transitions
    updates: int
    bytes: int


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seconds", type=whole_number(5, 3600), default=20, help="to measure each run for, and its probes (20)"
    )
    parser.add_argument("--ratios", default=",".join(map(str, RATIOS)), help="samples per insert, with commas between")
    parser.add_argument("--sampling", choices=("cached", "remote"), help="one of the two (default: both)")
    arguments = parser.parse_args(argv)
    print("| samples per insert | sampling | transitions/s | updates/s | bytes a transition | bytes/s of probes left out |")
    print("|---|---|---|---|---|---|", flush=True)
    for ratio in map(whole_number(1, 10_000), arguments.ratios.split(",")):
        for sampling in (arguments.sampling,) if arguments.sampling else ("cached", "remote"):
            with tempfile.TemporaryDirectory(prefix="sbrl-bench-") as folder:
                print(measure(Path(folder) / "run", sampling, ratio, arguments.seconds), flush=True)


def measure(directory: Path, sampling: str, ratio: int, seconds: int) -> str:
    """Makes one run; returns its row of the table."""
    settings = (
        *(f"replay.sampling={sampling}", f"learner.batch_size={BATCH_SIZE}", f"learner.updates_per_step={ratio / BATCH_SIZE}"),
        *("replay.min_size=1000", "run.env_steps=10000000", "evaluator.interval_env_steps=10000000", "actors.num_actors=1"),
        "agent.epsilon_end=1",
    )
    with running(directory, settings) as client:
        wait_for_updates(client, FIRST_UPDATES)
        addresses = load(directory / "run.yaml").network.replay_addresses
        processes = {process.name: process.process_id for process in processes_of(directory)}
        learner = processes["learner"]
        first = read(client, learner, addresses)
        last, deadline = first, first.time + seconds
        while last.time < deadline:
            time.sleep(POLL_SECONDS)
            last = read(client, learner, addresses)
        with stopped(processes["actor-0"]):
            wait_until_quiet(client)
            probed = byte_rate(learner, addresses, seconds)
    elapsed, transitions = last.time - first.time, last.received - first.received
    data = last.bytes - first.bytes - probed * elapsed
    return (
        f"| {ratio} | {sampling} | {transitions / elapsed:,.0f} | {(last.updates - first.updates) / elapsed:,.0f} | "
        f"{data / max(1, transitions):,.0f} | {probed:,.0f} |"
    )


@contextmanager
def running(directory: Path, settings: Sequence[str], preset: str = "minatar-dqn") -> Iterator[FleetClient]:
    """Starts a run in the background, yields a client of its coordinator, and ends the run."""
    command = [sys.executable, "-m", "sbrl.cli", "train", "--preset", preset, "--run-dir", str(directory), *settings]
    with ExitStack() as closing:
        log = closing.enter_context(directory.with_suffix(".log").open("wb"))
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        closing.callback(process.wait)
        closing.callback(process.terminate)
        deadline = time.monotonic() + START_SECONDS
        while not (directory / "run.yaml").is_file():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RunError(f"the run did not start: {directory.with_suffix('.log').read_text(errors='replace')}")
            time.sleep(POLL_SECONDS)
        client = FleetClient(load(directory / "run.yaml").network.coordinator_address)
        closing.callback(client.close)
        yield client


def wait_for_updates(client: FleetClient, updates: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while progress_of(client).updates < updates:
        if time.monotonic() > deadline:
            raise RunError(f"no {updates} updates within {START_SECONDS:g} s")
        time.sleep(POLL_SECONDS)


def progress_of(client: FleetClient) -> LearnerProgress:
    try:
        return client.status(timeout=30.0).progress
    except CoordinatorUnavailable:
        return LearnerProgress()


def read(client: FleetClient, learner: int, addresses: Sequence[str]) -> TrafficReading:
    """Takes a reading. Progress is at most a second old; bytes are current."""
    progress = progress_of(client)
    received = sum(shard.received for shard in progress.shards)
    return TrafficReading(time.monotonic(), received, progress.updates, received_bytes(learner, addresses))


def received_bytes(process_id: int, addresses: Sequence[str]) -> int:
    """Bytes that a process's open connections to these addresses have received."""
    shown = subprocess.run(["ss", "-tinpHO"], capture_output=True, text=True, check=True).stdout
    total = 0
    for line in shown.splitlines():
        if f"pid={process_id}," not in line or line.split()[4].replace("[::ffff:127.0.0.1]", "127.0.0.1") not in addresses:
            continue
        total += int(found[1]) if (found := _RECEIVED.search(line)) else 0
    return total


@contextmanager
def stopped(process_id: int) -> Iterator[None]:
    """Stops a process within the context."""
    os.kill(process_id, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process_id, signal.SIGCONT)


def wait_until_quiet(client: FleetClient) -> None:
    """Waits until nothing has been received for some seconds, and all due samples are trained."""
    last, since, deadline = progress_of(client), time.monotonic(), time.monotonic() + DRAIN_SECONDS
    while time.monotonic() < since + QUIET_SECONDS:
        if time.monotonic() > deadline:
            raise RunError(f"the learner still receives or trains {DRAIN_SECONDS:g} s after the actor has stopped")
        time.sleep(POLL_SECONDS)
        progress = progress_of(client)
        if progress.updates != last.updates or progress.shards != last.shards:
            last, since = progress, time.monotonic()


def byte_rate(process_id: int, addresses: Sequence[str], seconds: int) -> float:
    """Bytes per second that a process receives from these addresses."""
    before, start = received_bytes(process_id, addresses), time.monotonic()
    time.sleep(seconds)
    return (received_bytes(process_id, addresses) - before) / (time.monotonic() - start)


if __name__ == "__main__":
    run_program(main)
