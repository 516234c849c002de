"""Shards with a queue and a log for tests: in this process, or in a separate one that can be stopped and killed.

`python -m tests.integration.segment_shards PORT DIRECTORY QUEUE LOG`: one shard, restored from its newest checkpoint.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actors.collector import Collector
from actors.segment_stream import SegmentStream, preferred_shard
from sbrl.replay.backend import reverb
from sbrl.replay.queue_probe import QueueProbe
from sbrl.replay.receipts import Receipts
from sbrl.replay.segment_reader import SegmentReader
from sbrl.replay.segment_tables import make_tables
from sbrl.replay.segment_writer import SegmentWriter
from sbrl.replay.segments import Segment, SegmentShape, Stream, StreamRows, Transition
from sbrl.rpc.ports import free_ports
from tests.scripted_episodes import Episode, frame_of
from tests.scripted_play import VERSION, ScriptedEnvs, ScriptedPolicy, whole

SHAPE = SegmentShape(stack=2, n_max=3, frame_shape=(2,), frame_dtype=np.dtype(np.float32), steps=8)
TIMEOUT = 60.0  # on a busy machine, for work of a second


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def serve(shape: SegmentShape, port: int, queue: int = 64, log: int = 1000, directory: Path | None = None) -> reverb.Server:
    """A shard in this process."""
    folder = None if directory is None else reverb.platform.checkpointers_lib.DefaultCheckpointer(str(directory))
    return reverb.Server(make_tables(shape, queue, log), port=port, checkpointer=folder)


class ShardProcess:
    """A shard of SHAPE in a separate process, on the same port at every start."""

    def __init__(self, directory: Path, queue: int = 64, log: int = 1000) -> None:
        (self._port,) = free_ports("127.0.0.1", 1)
        self._arguments = [str(self._port), str(directory), str(queue), str(log)]
        self.address = f"127.0.0.1:{self._port}"
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.integration.segment_shards", *self._arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def wait_serving(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "serving\n"

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()


class Taken:
    """A sink for readers. Keeps segments in order, with receipts, and takes no more than it has room for."""

    def __init__(self, room: int = 1_000_000) -> None:
        self.segments: list[tuple[int, Segment]] = []
        self.receipts = Receipts()
        self._room = threading.Semaphore(room)
        self._lock = threading.Lock()

    def more(self, room: int) -> None:
        self._room.release(room)

    def take(self, shard: int, segment: Segment) -> None:
        self._room.acquire()
        with self._lock:
            self.receipts.take(shard, segment.of, segment.first, int(segment.valid(SHAPE).sum()))
            self.segments.append((shard, segment))


class Actor:
    """The streams of an actor's environments to some shards, with steps of endless episodes."""

    def __init__(
        self, addresses: list[str], num_envs: int = 1, incarnation: int = 1, probes: list[QueueProbe] | None = None
    ) -> None:
        self.stop, self.blocked = threading.Event(), threading.Event()
        self.probes = probes or [QueueProbe(address, shard) for shard, address in enumerate(addresses)]
        self.steps = itertools.count(1)
        self.env_steps = 0
        for probe in self.probes:
            probe.start()
            assert probe.wait_answer(TIMEOUT)
        self.streams = [
            SegmentStream(
                SegmentWriter(addresses, SHAPE, lambda: self.env_steps),
                SHAPE,
                self.probes,
                first=Stream(0, incarnation, env, 0),
                preferred=env % len(addresses),
                stop=self.stop,
                drain_seconds=1.0,
                while_blocked=self.blocked.set,
            )
            for env in range(num_envs)
        ]

    def begin(self) -> None:
        for stream in self.streams:
            stream.begin(np.stack([frame_of(0), frame_of(0)]))

    def step(self, steps: int = 1, confirm: bool = False) -> None:
        """Args: confirm: wait for confirmation after each step, so that the shards have the steps in this order."""
        for _ in range(steps):
            for stream in self.streams:
                number = next(self.steps)
                self.env_steps += 1
                stream.append(
                    Transition(number % 7, float(number), False, frame_of(number), 1), np.stack([frame_of(number)] * 2)
                )
                if confirm:
                    assert stream._flush(0, TIMEOUT)

    def end(self) -> None:
        for stream in self.streams:
            stream.end()

    def drain(self) -> None:
        for stream in self.streams:
            stream.drain()

    def close(self) -> None:
        for stream in self.streams:
            stream.close()
        for probe in self.probes:
            probe.stop()

    @property
    def created(self) -> int:
        return sum(stream.created for stream in self.streams)

    @property
    def dropped(self) -> int:
        return sum(stream.dropped for stream in self.streams)


def collect(
    script: Sequence[Sequence[Episode]],
    steps: int,
    addresses: list[str],
    shape: SegmentShape,
    probes: list[QueueProbe],
    incarnation: int,
    actor: int = 3,
) -> None:
    """Lets an actor's loop take `steps` steps in every environment, and checks that the shards have them all."""
    num_envs = len(script)
    streams = [
        SegmentStream(
            SegmentWriter(addresses, shape, lambda: 0),
            shape,
            probes,
            Stream(actor, incarnation, env, 0),
            preferred_shard(actor, env, num_envs, len(addresses)),
            threading.Event(),
            drain_seconds=TIMEOUT,
        )
        for env in range(num_envs)
    ]
    envs = ScriptedEnvs([whole(episodes) for episodes in script], shape.stack)
    collector = Collector(envs, ScriptedPolicy(), streams, lambda episode: None)
    for _ in range(steps):
        collector.step(epsilon=0.0, weights_version=VERSION)
    collector.drain()
    for env, stream in enumerate(streams):
        stream.drain()
        shard = (actor * num_envs + env) % len(addresses)
        assert (stream.shard, stream.created, stream.inserted, stream.dropped) == (shard, steps, steps, 0)
        stream.close()


def write_steps(address: str, shape: SegmentShape, steps: int, start: int = 0) -> None:
    """Writes one environment's steps from `start` on as a separate stream, and waits for confirmation."""
    writer = SegmentWriter([address], shape, lambda: rows.steps)
    writer.open(0, Stream(actor=0, incarnation=1, env=0, stream=start, start=start))
    rows = StreamRows(shape, writer, start=start)
    rows.begin(np.zeros((shape.stack, *shape.frame_shape), shape.frame_dtype))
    for step in range(start, start + steps):
        frame = np.full(shape.frame_shape, step + 1, shape.frame_dtype)
        rows.append(Transition(step % 7, float(step), False, frame, weights_version=1))
    rows.end()
    rows.fill()
    assert writer.flush(0, TIMEOUT)
    writer.close()


def readers(addresses: Iterable[str], shape: SegmentShape, sink: Callable[[int, Segment], Any]) -> list[SegmentReader]:
    """Started readers of all shards into one sink."""
    made = [SegmentReader(address, shard, shape, sink) for shard, address in enumerate(addresses)]
    for reader in made:
        reader.start()
    return made


def stop_reading(made: Sequence[SegmentReader], shape: SegmentShape) -> None:
    """Stops readers, and wakes those that wait at an empty queue with a last step, which nobody takes.

    Nothing else ends such a wait. When its server in this process is gone, it continues and takes 3 % of a core until all tests
    have ended.
    """
    left = [thread for thread in threading.enumerate() if re.fullmatch(r"shard-\d+-queue", thread.name)]
    for reader in made:
        reader.stop()
        write_steps(reader.address, shape, 1)
    wait_for(lambda: sum(thread.is_alive() for thread in left) <= len(left) - len(made), "a reader goes on")


def main(port: int, directory: Path, queue: int, log: int) -> None:
    server = serve(SHAPE, port, queue, log, directory)
    print("serving", flush=True)
    server.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
