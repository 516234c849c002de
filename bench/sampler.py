"""Batches a second from one shard, and what each leaves behind in memory: SBRL's sampler beside the textbook loop.

    python -m bench.sampler --batches 5000

Both draw batches of Atari frames from the same real shard, in turn; its limiter holds nobody up. The textbook loop is that of
Reverb's examples: `TrajectoryDataset(...).batch(n).as_numpy_iterator()`. The exit code is 1 if SBRL's leaves anything behind.
"""

from __future__ import annotations

import argparse
import gc
import queue
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.sinks import into
from sbrl import config as configs
from sbrl.arguments import whole_number
from sbrl.config import Config
from sbrl.envs.make import make_spec
from sbrl.errors import RunError
from sbrl.lifecycle import run_program
from sbrl.memory import resident_bytes
from sbrl.ports import free_ports
from sbrl.replay.backend import reverb, tf
from sbrl.replay.items import TABLE, Items, ItemShape
from sbrl.replay.probe import ShardProbe
from sbrl.replay.sampler import ShardSampler
from sbrl.replay.segments import Transition
from sbrl.replay.writer import EpisodeWriter

ROUNDS, WARM_UP, STEPS = 3, 300, 2000
WAIT_SECONDS = 120.0
MOST_BLOCKS = 0.5  # of Python's allocator, that a batch may leave behind


class Measured(NamedTuple):
    """Of one loop, per batch."""

    milliseconds: float
    blocks: float  # of Python's allocator, left behind
    resident: float  # bytes, left behind


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--batches", type=whole_number(1, 2**31), default=5000, help="of each loop, in each of three rounds (5,000)"
    )
    parser.add_argument("--batch-size", type=whole_number(1, 100), default=8)
    arguments = parser.parse_args(argv)
    found: dict[str, list[Measured]] = {"SBRL": [], "textbook": []}
    with tempfile.TemporaryDirectory(prefix="sbrl-bench-") as folder, serving(Path(folder), arguments.batch_size) as config:
        shape = ItemShape.of(make_spec(config.env), config.agent.stored_steps)
        fill(config, shape)
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
    """A shard, and a coordinator for it, as programs of their own."""
    ports = free_ports("127.0.0.1", 2)
    network = {"coordinator_address": f"127.0.0.1:{ports[0]}", "replay_addresses": [f"127.0.0.1:{ports[1]}"]}
    learner = {"batch_size": batch_size, "updates_per_step": 64.0}
    config = configs.build(
        {"replay": {"num_shards": 1, "min_size": 100, "error_buffer": 1e7}, "learner": learner, "network": network}
    )
    path = folder / "run.yaml"
    path.write_text(configs.dump(config), encoding="utf-8")
    processes = []
    try:
        for name, module in (("coordinator", "services.coordinator"), ("replay-0", "services.replay")):
            command = [sys.executable, "-P", "-m", module, "--config", str(path), "--run-dir", str(folder), "--name", name]
            with (folder / f"{name}.log").open("wb") as log:
                processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        yield config
    finally:
        for process in processes:
            process.kill()
            process.wait()


def fill(config: Config, shape: ItemShape) -> None:
    """Waits for the shard and writes some transitions of noise."""
    address = config.network.replay_addresses[0]
    probe = ShardProbe(address, 0)
    probe.start()
    if not probe.wait_up(WAIT_SECONDS):
        raise RunError(f"no answer from the shard within {WAIT_SECONDS:g} s")
    probe.stop()
    writer = EpisodeWriter([address], shape)
    frames = np.random.default_rng(0).integers(0, 256, size=(16, *shape.frame_shape)).astype(shape.frame_dtype)
    writer.begin(0, frames[: shape.stack], 0, 1, 0)
    for step in range(STEPS):
        writer.append(Transition(0, 0.0, False, frames[step % len(frames)], 1))
        writer.flush(8, WAIT_SECONDS)
    writer.close()


def textbook_batches(config: Config, shape: ItemShape) -> Iterator[object]:
    columns = shape.columns()
    batch_size = config.learner.batch_size
    dataset = reverb.TrajectoryDataset(
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
