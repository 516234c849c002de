"""Batches per second from one shard, and the memory that each leaves behind, beside the textbook loop.

    python -m bench.sampler --batches 5000

Both draw batches of Atari frames from the same real shard, in turns. The textbook loop is from Reverb's examples:
`TrajectoryDataset(...).batch(n).as_numpy_iterator()`. The exit code is 1 if SBRL's loop leaves anything behind.
"""

from __future__ import annotations

import argparse
import gc
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from actors.segment_stream import SegmentStream
from bench.sinks import into
from sbrl import config as configs
from sbrl.config import Config
from sbrl.envs.make import make_spec
from sbrl.envs.spec import EnvSpec
from sbrl.errors import RunError
from sbrl.replay.datasets import TrajectoryDataset, tf
from sbrl.replay.items import TABLE, Items, ItemShape
from sbrl.replay.queue_probe import QueueProbe
from sbrl.replay.sampler import ShardSampler
from sbrl.replay.segment_reader import SegmentReader
from sbrl.replay.segments import SegmentShape, Stream, Transition
from sbrl.replay.transition_writer import TransitionWriter
from sbrl.rpc.ports import free_ports
from sbrl.runtime.arguments import whole_number
from sbrl.runtime.memory import resident_bytes
from sbrl.runtime.program import run_program

ROUNDS, WARM_UP, STEPS = 3, 300, 2000
WAIT_SECONDS = 120.0
MOST_BLOCKS = 0.5  # blocks of Python's allocator that a batch may leave behind


class Measured(NamedTuple):
    """One loop's figures per batch."""

    milliseconds: float
    blocks: float  # of Python's allocator, left behind
    resident: float  # bytes left behind


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--batches", type=whole_number(1, 2**31), default=5000, help="of each loop, in each of three rounds (5,000)"
    )
    parser.add_argument("--batch-size", type=whole_number(1, 100), default=8)
    arguments = parser.parse_args(argv)
    found: dict[str, list[Measured]] = {"SBRL": [], "textbook": []}
    with tempfile.TemporaryDirectory(prefix="sbrl-bench-") as folder, serving(Path(folder), arguments.batch_size) as config:
        spec = make_spec(config.env)
        shape = ItemShape.of(spec, config.agent.stored_steps)
        fill(config, spec)
        served: queue.Queue[Items] = queue.Queue(maxsize=1)
        sampler = ShardSampler(config.network.replay_addresses[0], 0, shape, arguments.batch_size, into(served))
        sampler.start()
        textbook = textbook_batches(config, shape)
        for number in range(1, ROUNDS + 1):
            for name, take in (("SBRL", lambda: served.get(timeout=WAIT_SECONDS)), ("textbook", lambda: next(textbook))):
                found[name].append(measure(take, arguments.batches))
                print(f"round {number}/{ROUNDS}, {name}: {found[name][-1].milliseconds:.2f} ms a batch", flush=True)
        sampler.stop()
    print("\n| loop | ms a batch | blocks left behind by each | bytes left behind by each |\n|---|---|---|---|")
    for name, rounds in found.items():
        middle = Measured(*(statistics.median(values) for values in zip(*rounds, strict=True)))
        print(f"| {name} | {middle.milliseconds:.2f} | {middle.blocks:.2f} | {middle.resident:.0f} |")
    return int(statistics.median(one.blocks for one in found["SBRL"]) > MOST_BLOCKS)


@contextmanager
def serving(folder: Path, batch_size: int) -> Iterator[Config]:
    """Runs a shard as a separate program, without a coordinator."""
    port, nobody = free_ports("127.0.0.1", 2)
    config = configs.build(
        {
            "replay": {"num_shards": 1, "sampling": "remote"},
            "learner": {"batch_size": batch_size},
            "network": {"coordinator_address": f"127.0.0.1:{nobody}", "replay_addresses": [f"127.0.0.1:{port}"]},
        }
    )
    path = folder / "run.yaml"
    path.write_text(configs.dump(config), encoding="utf-8")
    command = [sys.executable, "-P", "-m", "services.replay", "--config", str(path), "--run-dir", str(folder)]
    with (folder / "replay-0.log").open("wb") as log:
        process = subprocess.Popen([*command, "--name", "replay-0"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield config
    finally:
        process.kill()
        process.wait()


def fill(config: Config, spec: EnvSpec) -> None:
    """Waits for the shard and writes transitions of noise."""
    address, shape = config.network.replay_addresses[0], SegmentShape.of(spec, config.agent.stored_steps)
    probe = QueueProbe(address, 0)
    probe.start()
    if not probe.wait_answer(WAIT_SECONDS):
        raise RunError(f"no answer from the shard within {WAIT_SECONDS:g} s")
    reader = SegmentReader(address, 0, shape.without_frames(), lambda shard, segment: None)
    reader.start()
    writer = TransitionWriter([address], shape, age=lambda: 0, initial_priority=lambda: 1.0)
    stream = SegmentStream(writer, shape, [probe], Stream(0, 1, 0, 0), 0, threading.Event(), drain_seconds=WAIT_SECONDS)
    frames = np.random.default_rng(0).integers(0, 256, size=(16, *shape.frame_shape)).astype(shape.frame_dtype)
    stream.begin(frames[: shape.stack])
    for step in range(STEPS):
        stream.append(Transition(0, 0.0, False, frames[step % len(frames)], 1), frames[: shape.stack])
    stream.close()
    reader.stop()
    probe.stop()


def textbook_batches(config: Config, shape: ItemShape) -> Iterator[object]:
    columns = shape.columns()
    batch_size = config.learner.batch_size
    dataset = TrajectoryDataset(
        server_address=config.network.replay_addresses[0],
        table=TABLE,
        dtypes={name: tf.as_dtype(dtype) for name, (_, dtype) in columns.items()},
        shapes={name: tf.TensorShape(dims) for name, (dims, _) in columns.items()},
        max_in_flight_samples_per_worker=batch_size,
        num_workers_per_iterator=1,
    )
    return iter(dataset.batch(batch_size, drop_remainder=True).as_numpy_iterator())


def measure(take: Callable[[], object], batches: int) -> Measured:
    for _ in range(WARM_UP):
        take()
    gc.collect()
    blocks, resident, start = sys.getallocatedblocks(), resident_bytes(), time.perf_counter()
    for _ in range(batches):
        take()
    seconds = time.perf_counter() - start
    gc.collect()
    return Measured(
        1000 * seconds / batches, (sys.getallocatedblocks() - blocks) / batches, (resident_bytes() - resident) / batches
    )


if __name__ == "__main__":
    run_program(main)
