"""What the learner reads of the shards a transition, and its speed, cached and remote, at several ratios.

    python -m bench.traffic --seconds 20

Whole runs of the real programs on MinAtar, batch 8, two shards; each is measured for some seconds after its first updates, and
ended. Bytes are those that the kernel says the learner's connections to the shards have received (`ss`): Reverb's compressed
data with its headers. The probes' answers, two a second and shard whatever else passes, are left out: their rate is taken from
probes of this program.
"""

from __future__ import annotations

import argparse
import os
import re
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
from sbrl.replay.queue_probe import QueueProbe
from sbrl.rpc.channels import CoordinatorUnavailable
from sbrl.runtime.arguments import whole_number
from sbrl.runtime.program import run_program
from sbrl.v1.fleet_pb2 import LearnerProgress

BATCH_SIZE = 8
RATIOS = (2, 8, 64, 256)  # samples per insert
FIRST_UPDATES = 300  # before measuring begins
START_SECONDS, POLL_SECONDS, PROBE_SECONDS = 180.0, 0.5, 10.0
_RECEIVED = re.compile(r"bytes_received:(\d+)")


class TrafficReading(NamedTuple):
    """Of one moment; all but the time is cumulative."""

    time: float
    received: int  # transitions
    updates: int
    bytes: int


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=whole_number(5, 3600), default=20, help="to measure each run for (20)")
    arguments = parser.parse_args(argv)
    print("| samples per insert | sampling | transitions/s | updates/s | bytes a transition | bytes/s of probes left out |")
    print("|---|---|---|---|---|---|", flush=True)
    for ratio in RATIOS:
        for sampling in ("cached", "remote"):
            with tempfile.TemporaryDirectory(prefix="sbrl-bench-") as folder:
                print(measure(Path(folder) / "run", sampling, ratio, arguments.seconds), flush=True)


def measure(directory: Path, sampling: str, ratio: int, seconds: int) -> str:
    """One run; returns its row of the table."""
    settings = (
        *(f"replay.sampling={sampling}", f"learner.batch_size={BATCH_SIZE}", f"learner.updates_per_step={ratio / BATCH_SIZE}"),
        *("replay.min_size=1000", "run.env_steps=10000000", "evaluator.interval_env_steps=10000000", "actors.num_actors=1"),
    )
    with running(directory, settings) as client:
        wait_for_updates(client, FIRST_UPDATES)
        addresses = load(directory / "run.yaml").network.replay_addresses
        (learner,) = [process.process_id for process in processes_of(directory) if process.name == "learner"]
        first = read(client, learner, addresses)
        last, deadline = first, first.time + seconds
        while last.time < deadline:
            time.sleep(POLL_SECONDS)
            last = read(client, learner, addresses)
        probed = probe_rate(addresses)
    elapsed, transitions = last.time - first.time, last.received - first.received
    data = last.bytes - first.bytes - probed * elapsed
    return (
        f"| {ratio} | {sampling} | {transitions / elapsed:,.0f} | {(last.updates - first.updates) / elapsed:,.0f} | "
        f"{data / max(1, transitions):,.0f} | {probed:,.0f} |"
    )


@contextmanager
def running(directory: Path, settings: Sequence[str], preset: str = "minatar-dqn") -> Iterator[FleetClient]:
    """A run in the background, and a client of its coordinator; the run is ended at the end."""
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
    """Progress is a second old at most; bytes are of now."""
    progress = progress_of(client)
    received = sum(shard.received for shard in progress.shards)
    return TrafficReading(time.monotonic(), received, progress.updates, received_bytes(learner, addresses))


def received_bytes(process_id: int, addresses: Sequence[str]) -> int:
    """What a process's open connections to these addresses have received."""
    shown = subprocess.run(["ss", "-tinpHO"], capture_output=True, text=True, check=True).stdout
    total = 0
    for line in shown.splitlines():
        if f"pid={process_id}," not in line or line.split()[4].replace("[::ffff:127.0.0.1]", "127.0.0.1") not in addresses:
            continue
        total += int(found[1]) if (found := _RECEIVED.search(line)) else 0
    return total


def probe_rate(addresses: Sequence[str]) -> float:
    """Bytes a second that a process's probes of all shards receive."""
    probes = [QueueProbe(address, shard) for shard, address in enumerate(addresses)]
    for probe in probes:
        probe.start()
        probe.wait_answer(PROBE_SECONDS)
    before, start = received_bytes(os.getpid(), addresses), time.monotonic()
    time.sleep(PROBE_SECONDS)
    rate = (received_bytes(os.getpid(), addresses) - before) / (time.monotonic() - start)
    for probe in probes:
        probe.stop()
    return rate


if __name__ == "__main__":
    run_program(main)
