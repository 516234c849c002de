"""A shard's memory over many checkpoints: between them, at the peak of each, and left in the page cache.

    python -m bench.shard_memory --transitions 100000 --checkpoints 20

Runs the shard's own program with a real coordinator. Its tables are filled with frames of Pong (a game is played first), then
replaced at a steady rate, as in a run, while checkpoints are written. Pages of their files count towards a container's limit
once they have been read twice, so they are shown too. The exit code is 1 if memory after the second half of the checkpoints is
over 5 % larger than after the first half.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.segments import Counter, play
from sbrl.config import Config, dump, load
from sbrl.envs.make import make_spec
from sbrl.errors import RunError
from sbrl.replay.segment_reader import SegmentReader
from sbrl.replay.segment_writer import SegmentWriter
from sbrl.replay.segments import SegmentShape, Stream, StreamRows, Transition
from sbrl.replay.transition_writer import TransitionWriter
from sbrl.rpc.ports import free_ports
from sbrl.runtime.arguments import whole_number
from sbrl.runtime.program import run_program
from sbrl.storage.run_directory import RunDirectory

STREAMS = 8  # one for each game of an actor
LOOK_SECONDS = 0.05
START_SECONDS = 300.0  # on a busy machine
MAX_UNCONFIRMED = 1  # segments of a stream, as in actors
GROWTH = 0.05
_MEMORY = re.compile(r"^(RssAnon|RssFile):\s+(\d+) kB", re.MULTILINE)


class ShardReading(NamedTuple):
    """Memory at one moment, in bytes."""

    checkpoints: int  # finished so far
    anonymous: int
    files: int  # mostly libraries
    cached: int  # checkpoint files in the page cache


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transitions", type=whole_number(1000, 2**31), default=100_000, help="of the shard's log (100,000)")
    parser.add_argument("--checkpoints", type=whole_number(4, 10_000), default=20)
    parser.add_argument("--sampling", choices=["cached", "remote"], default="cached", help="replay.sampling (cached)")
    parser.add_argument("--rate", type=whole_number(10, 100_000), default=500, help="transitions a second (500)")
    parser.add_argument("--interval", type=whole_number(2, 3600), default=15, help="seconds between checkpoints (15)")
    arguments = parser.parse_args(argv)
    frames = play()
    with tempfile.TemporaryDirectory(prefix="sbrl-bench-") as folder, shard(Path(folder), arguments) as (config, process_id):
        directory = RunDirectory(Path(folder)).replay_checkpoints(0)
        empty = look(process_id, directory, 0)
        writer = Writer(config, frames)
        writer.write(arguments.transitions)
        print(f"memory without transitions: {empty.anonymous / 1e6:.0f} MB; {arguments.transitions:,} are written", flush=True)
        done = threading.Event()
        turning = threading.Thread(target=writer.go_on, args=(arguments.rate, done), daemon=True)
        turning.start()
        readings = list(looks(process_id, directory, arguments.checkpoints, arguments.interval))
        done.set()
        turning.join()
    return report(readings, arguments.checkpoints)


@contextmanager
def shard(folder: Path, arguments: argparse.Namespace) -> Iterator[tuple[Config, int]]:
    """Runs a coordinator and a shard; yields the config and the shard's process id once it serves."""
    ports = free_ports("127.0.0.1", 2)
    config = load(
        overrides=[
            *("env.id=ALE/Pong-v5", "replay.num_shards=1", "replay.min_size=1000"),
            *(f"replay.sampling={arguments.sampling}", f"replay.capacity={arguments.transitions}"),
            f"replay.checkpoint_interval_seconds={arguments.interval}",
            *(f"network.coordinator_address=127.0.0.1:{ports[0]}", f"network.replay_addresses=[127.0.0.1:{ports[1]}]"),
        ]
    )
    path = RunDirectory(folder).config
    path.write_text(dump(config), encoding="utf-8")
    with ExitStack() as closing:
        log = folder / "shard.log"
        for role, name, output in (("coordinator", "coordinator", folder / "coordinator.log"), ("replay", "replay-0", log)):
            command = [sys.executable, "-m", f"services.{role}", "--config", str(path), "--name", name]
            with output.open("wb") as file:
                process = subprocess.Popen(
                    [*command, "--health-port", "0", "--metrics-port", "0"], stdout=file, stderr=subprocess.STDOUT
                )
            closing.callback(process.wait)
            closing.callback(process.kill)
        deadline = time.monotonic() + START_SECONDS
        while "serving on port" not in log.read_text(errors="replace"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RunError(f"the shard did not start: {log.read_text(errors='replace')}")
            time.sleep(LOOK_SECONDS)
        yield config, process.pid


class Writer:
    """Writes streams to the shard, and takes the segments that its queue serves."""

    def __init__(self, config: Config, frames: NDArray[np.uint8]) -> None:
        shape = SegmentShape.of(make_spec(config.env), config.agent.stored_steps)
        (address,) = config.network.replay_addresses
        self._frames, self._steps = frames, 0
        self._streams: list[tuple[SegmentWriter, StreamRows]] = []
        remote = config.replay.sampling == "remote"
        reader = SegmentReader(address, 0, shape.without_frames() if remote else shape, Counter(0).take)
        reader.start()
        for stream in range(STREAMS):
            if remote:
                writer: SegmentWriter = TransitionWriter([address], shape, self._age, lambda: 1.0)
            else:
                writer = SegmentWriter([address], shape, self._age)
            rows = StreamRows(shape, writer)
            writer.open(0, Stream(0, int(time.time()), stream, 0))
            rows.begin(frames[: shape.stack])
            self._streams.append((writer, rows))

    def _age(self) -> int:
        return self._steps

    def write(self, transitions: int) -> None:
        """Writes about this many at once."""
        for _ in range(transitions // STREAMS):
            for number, (writer, rows) in enumerate(self._streams):
                frame = self._frames[(self._steps + 101 * number) % len(self._frames)]
                rows.append(Transition(self._steps % 6, 0.0, False, frame, 1))
                if writer.unconfirmed > MAX_UNCONFIRMED and not writer.flush(MAX_UNCONFIRMED, START_SECONDS):
                    raise RunError(f"the shard confirmed too little within {START_SECONDS:g} s")
            self._steps += 1

    def go_on(self, rate: int, done: threading.Event) -> None:
        """Writes `rate` transitions per second until `done` is set."""
        while not done.wait(STREAMS / rate):
            self.write(STREAMS)


def looks(process_id: int, directory: Path, checkpoints: int, interval: float) -> Iterator[ShardReading]:
    """Readings until this many more checkpoints are there.

    Raises:
        RunError: there is no new one within START_SECONDS plus the interval.
    """
    first, last, deadline = newest(directory), -1, 0.0
    while (finished := newest(directory) - first) < checkpoints:
        if finished > last:
            last, deadline = finished, time.monotonic() + interval + START_SECONDS
        elif time.monotonic() > deadline:
            raise RunError(f"after {finished} checkpoints there came no more within {START_SECONDS:g} s")
        yield look(process_id, directory, finished)
        time.sleep(LOOK_SECONDS)


def look(process_id: int, directory: Path, finished: int) -> ShardReading:
    status = Path(f"/proc/{process_id}/status").read_text(encoding="utf-8")
    memory = {name: 1024 * int(kib) for name, kib in _MEMORY.findall(status)}
    return ShardReading(finished, memory["RssAnon"], memory["RssFile"], cached(directory))


def newest(directory: Path) -> int:
    """The number of the newest checkpoint; 0 without one."""
    return max((int(path.name.rpartition("-")[2]) for path in directory.glob("checkpoint-*")), default=0)


def cached(directory: Path) -> int:
    """Bytes of a folder's files that are in the page cache."""
    # Files come and go meanwhile. Neither of these calls fails on that.
    files = [str(Path(folder) / name) for folder, _, names in os.walk(directory) for name in names]
    told = subprocess.run(
        ["fincore", "--bytes", "--noheadings", "--output", "RES", *files], capture_output=True, text=True, check=False
    )
    return sum(map(int, told.stdout.split())) if files else 0


def report(readings: Sequence[ShardReading], checkpoints: int) -> int:
    """Prints a line for each checkpoint: least and most memory until it is there, and its files in the page cache."""
    print("\n| checkpoint | memory between, MB | peak, MB | libraries, MB | checkpoints in the page cache, MB |")
    print("|---|---|---|---|---|")
    before: list[float] = []
    for number in range(checkpoints):
        these = [reading for reading in readings if reading.checkpoints == number]
        if not these:
            continue
        anonymous = [reading.anonymous / 1e6 for reading in these]
        before.append(min(anonymous))
        libraries, pages = (statistics.median(column) / 1e6 for column in zip(*(each[2:] for each in these), strict=True))
        print(f"| {number + 1} | {before[-1]:.0f} | {max(anonymous):.0f} | {libraries:.0f} | {pages:.0f} |")
    first, second = (statistics.median(half) for half in (before[1 : len(before) // 2], before[len(before) // 2 :]))
    print(f"\nbetween checkpoints: {first:.0f} MB in the first half, {second:.0f} in the second")
    peak = max(reading.anonymous + reading.cached for reading in readings) / 1e6
    print(f"peak of memory and page cache: {peak:.0f} MB, beside libraries")
    return int(second > (1 + GROWTH) * first)


if __name__ == "__main__":
    run_program(main)
