"""Segments through one real shard: transitions per second, bytes per transition, CPU, and reading its log.

    python -m bench.segments --steps 200000

Two writers, each in its own process, write frames of Pong (a game is played first) to the shard. One reader takes them from its
queue, then reads its log. The exit code is 1 if reading the log is slower than 50 MB/s of frames on one core.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from numpy.typing import NDArray

from sbrl.config import load
from sbrl.envs.make import make_envs
from sbrl.errors import RunError
from sbrl.replay.backend import reverb
from sbrl.replay.segment_reader import SegmentReader
from sbrl.replay.segment_tables import log_segments, make_tables
from sbrl.replay.segment_writer import SegmentWriter
from sbrl.replay.segments import Segment, SegmentShape, Stream, StreamRows, Transition
from sbrl.rpc.ports import free_ports
from sbrl.runtime.arguments import whole_number
from sbrl.runtime.program import run_program

SHAPE = SegmentShape(stack=4, n_max=3, frame_shape=(84, 84), frame_dtype=np.dtype(np.uint8))
GAME_STEPS = 3000
WRITERS = 2
QUEUE = 64  # segments
LEAST_MB = 50.0
WAIT_SECONDS = 300.0


class Used(NamedTuple):
    """CPU seconds of the parts, and the bytes that the kernel carried over loopback."""

    time: float
    reader: float
    shard: float
    writers: float
    bytes: int


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=whole_number(10_000, 2**31), default=200_000, help="of both writers (200,000)")
    parser.add_argument("--part", choices=["shard", "writer"], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--frames", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.part == "shard":
        server = reverb.Server(make_tables(SHAPE, QUEUE, log_segments(arguments.steps, SHAPE)), port=arguments.port)
        print("ready", flush=True)
        server.wait()
    elif arguments.part == "writer":
        write(f"127.0.0.1:{arguments.port}", np.load(arguments.frames), arguments.steps // WRITERS)
    else:
        return measure(arguments.steps)
    return 0


def play() -> NDArray[np.uint8]:
    """Frames of Pong, uint8[GAME_STEPS, 84, 84]."""
    envs = make_envs(load(overrides=["env.id=ALE/Pong-v5"]).env, 1, 0)
    random = np.random.default_rng(0)
    frames = [envs.reset()[0, -1]]
    while len(frames) < GAME_STEPS:
        result = envs.step(random.integers(0, envs.spec.num_actions, 1))
        done = result.terminated | result.truncated
        frames.append((envs.reset(done) if done.any() else result.observation)[0, -1])
    envs.close()
    return np.array(frames)


def write(address: str, frames: NDArray[np.uint8], steps: int) -> None:
    """Writes `steps` steps as fast as the shard takes them, and prints the CPU microseconds per step."""
    writer = SegmentWriter([address], SHAPE, lambda: rows.steps)
    rows = StreamRows(SHAPE, writer)
    writer.open(0, Stream(0, int(time.time()), 0, 0))
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.process_time()
    rows.begin(frames[: SHAPE.stack])
    for step in range(steps):
        rows.append(Transition(step % 6, 0.0, False, frames[step % len(frames)], 1))
        if writer.unconfirmed > 1:
            flush(writer, 1)
    rows.end()
    rows.fill()
    flush(writer, 0)
    print(1e6 * (time.process_time() - start) / steps, flush=True)
    writer.close()


def flush(writer: SegmentWriter, max_unconfirmed: int) -> None:
    if not writer.flush(max_unconfirmed, WAIT_SECONDS):
        raise RunError(f"the shard confirmed too little within {WAIT_SECONDS:g} s")


def measure(steps: int) -> int:
    (port,) = free_ports("127.0.0.1", 1)
    with tempfile.TemporaryDirectory(prefix="sbrl-bench-") as folder:
        frames = Path(folder) / "frames.npy"
        np.save(frames, play())
        common = ["--steps", str(steps), "--port", str(port), "--frames", str(frames)]
        parts: list[subprocess.Popen[str]] = []
        try:
            parts.append(start_part("shard", common))
            parts += [start_part("writer", common) for _ in range(WRITERS)]
            return report(f"127.0.0.1:{port}", steps, parts)
        finally:
            for part in parts:
                part.kill()
                part.wait()


def start_part(name: str, arguments: Sequence[str]) -> subprocess.Popen[str]:
    """Starts a process of this program and waits until it is ready."""
    command = [sys.executable, "-m", "bench.segments", "--part", name, *arguments]
    part = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert part.stdout is not None
    if part.stdout.readline() != "ready\n":
        raise RunError(f"the {name} did not start")
    return part


def report(address: str, steps: int, parts: Sequence[subprocess.Popen[str]]) -> int:
    shard, *writers = parts
    received, done = Counter(steps), Counter(steps)
    reader = SegmentReader(address, 0, SHAPE, received.take)
    reader.start()
    if not reader.probe.wait_answer(WAIT_SECONDS):
        raise RunError(f"no answer from the shard within {WAIT_SECONDS:g} s")
    resident = psutil.Process(shard.pid).memory_info().rss
    before = used(parts)
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    received.wait()
    after = used(parts)
    per_step = [float(writer.stdout.readline()) for writer in writers if writer.stdout is not None]
    kept = psutil.Process(shard.pid).memory_info().rss - resident
    seconds = after.time - before.time
    print("| through the queue | |\n|---|---|")
    print(f"| transitions a second, two writers | {steps / seconds:,.0f} |")
    print(f"| MB/s of frames | {megabytes(steps) / seconds:.0f} |")
    print(f"| CPU of a writer, us a step | {np.mean(per_step):.1f} |")
    print(f"| reader's, shard's, writers' share of a core | {' / '.join(shares(before, after))} |")
    print(f"| bytes written and read, a transition | {(after.bytes - before.bytes) / steps:.0f} |")
    print(f"| memory of the shard, bytes a transition | {kept / steps:.0f} |")
    before = used(parts)
    reader.fill(1, done.take_more)
    if not reader.filled.wait(WAIT_SECONDS):
        raise RunError(f"the log was not read within {WAIT_SECONDS:g} s")
    after = used(parts)
    reader.stop()
    rate = megabytes(done.steps) / (after.time - before.time)
    print(f"\n| the log, {done.steps:,} transitions | |\n|---|---|")
    print(f"| MB/s of frames | {rate:.0f} |")
    print(f"| MB of frames a second of the reader's CPU | {megabytes(done.steps) / (after.reader - before.reader):.0f} |")
    print(f"| bytes read a transition | {(after.bytes - before.bytes) / done.steps:.0f} |")
    return int(rate < LEAST_MB)


class Counter:
    """A sink that counts steps."""

    def __init__(self, wanted: int) -> None:
        self.steps, self._wanted, self._all = 0, wanted, threading.Event()

    def take(self, shard: int, segment: Segment) -> None:
        self.steps += int(segment.valid(SHAPE).sum())
        if self.steps >= self._wanted:
            self._all.set()

    def take_more(self, shard: int, segment: Segment) -> bool:
        self.take(shard, segment)
        return True

    def wait(self) -> None:
        if not self._all.wait(WAIT_SECONDS):
            raise RunError(f"{self.steps:,} of {self._wanted:,} transitions within {WAIT_SECONDS:g} s")


def megabytes(steps: int) -> float:
    """Megabytes of the steps' frames, counting each frame once."""
    return steps * float(np.prod(SHAPE.frame_shape)) / 1e6


def cpu(pid: int | None) -> float:
    """CPU seconds that a process has used so far; None: this process."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def used(parts: Sequence[subprocess.Popen[str]]) -> Used:
    shard, *writers = parts
    carried = psutil.net_io_counters(pernic=True)["lo"].bytes_sent
    return Used(time.monotonic(), cpu(None), cpu(shard.pid), sum(cpu(writer.pid) for writer in writers), carried)


def shares(before: Used, after: Used) -> list[str]:
    seconds = after.time - before.time
    return [f"{(getattr(after, name) - getattr(before, name)) / seconds:.2f}" for name in ("reader", "shard", "writers")]


if __name__ == "__main__":
    run_program(main)
