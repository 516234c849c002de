"""Times of the replay memory: the cost of a batch beside its update, and how fast it takes segments.

    python -m bench.memory --capacity 1000000 --filled-mib 512
    python -m bench.memory --frame-shape 10,10,4 --device cuda

The memory has the whole capacity, with `--filled-mib` of frames in it; on a CPU the rest is never touched. The search for a
slot covers all slots, filled or not. Two runs differ by the machine's other load, so compare the fastest tenths.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping

import numpy as np
import torch

from bench.figures import Figure
from bench.peers.client import started, timed
from bench.progress import Tick, silent
from learner.algorithm.update import configure_torch
from learner.memory.priorities import Draw
from learner.memory.replay import ReplayMemory
from sbrl.networks.devices import find_device
from sbrl.replay.sampling import memory_bytes
from sbrl.replay.segments import STREAM_FIELDS, Segment, SegmentShape

NUM_SEGMENTS = 16  # different segments, appended over and over
N_STEP, DISCOUNT = 3, 0.99
CAPACITY, FILLED, BATCHES = 1_000_000, 8_000, 100  # capacity and fill in transitions, batches per turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capacity", type=int, default=1_000_000)
    parser.add_argument("--filled-mib", type=int, default=512, help="of frames, in mebibytes")
    parser.add_argument("--batch-sizes", default="8,32")
    parser.add_argument("--frame-shape", default="84,84", help="uint8, a stack of 4 frames")
    parser.add_argument("--n-max", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    arguments = parser.parse_args()
    configure_torch(num_threads=1)
    frame_shape = tuple(int(size) for size in arguments.frame_shape.split(","))
    shape = SegmentShape(4, arguments.n_max, frame_shape, np.dtype(np.uint8))
    device = find_device(arguments.device)
    memory = ReplayMemory(shape, arguments.capacity, device, seed=0, prioritized=True)
    count = min(math.ceil(arguments.capacity / shape.steps), max(1, arguments.filled_mib * 2**20 // shape.num_bytes))
    seconds = fill(memory, count)
    print(
        f"capacity {memory.capacity:,} of {shape.frame_shape}, {memory_bytes(shape, arguments.capacity) / 1e9:.2f} GB when full"
    )
    print(f"holds {memory.size:,} transitions in {memory.resident_bytes / 1e9:.2f} GB on {device}")
    print(f"append: {count / seconds:,.0f} segments/s, {count * shape.steps / seconds:,.0f} transitions/s, into new memory")
    for batch_size in (int(size) for size in arguments.batch_sizes.split(",")):
        measure(memory, batch_size, arguments.rounds)


def fill(memory: ReplayMemory, count: int) -> float:
    """Appends `count` segments; returns the seconds that it took."""
    generator = np.random.default_rng(0)
    segments = [random_segment(memory.shape, generator) for _ in range(NUM_SEGMENTS)]
    start = time.perf_counter()
    for index in range(count):
        memory.append(segments[index % NUM_SEGMENTS])
    synchronize(memory)
    return time.perf_counter() - start


def measure(memory: ReplayMemory, batch_size: int, rounds: int) -> dict[str, list[float]]:
    """Measures and prints microseconds of each part of a batch and of all together. The first tenth is warm-up."""
    device = memory.sample(1).slot.device
    parts: dict[str, list[float]] = {"sample": [], "gather": [], "set_priorities": [], "together": []}
    horizon = torch.full((), N_STEP, device=device), torch.full((), DISCOUNT, dtype=torch.float64, device=device)
    for index in range(-rounds // 10, rounds):
        priorities = torch.rand(batch_size, dtype=torch.float64, device=device) + 0.1
        times = [time.perf_counter()]

        def done(times: list[float] = times) -> None:
            synchronize(memory)
            times.append(time.perf_counter())

        sample: Draw = memory.sample(batch_size)
        done()
        memory.gather(sample, *horizon)
        done()
        memory.set_priorities(sample, priorities)
        done()
        if index >= 0:
            for name, seconds in zip(parts, [*np.diff(times), times[-1] - times[0]], strict=True):
                parts[name].append(float(seconds) * 1e6)
    shown = [f"{name} {np.median(values):.0f} ({np.percentile(values, 10):.0f})" for name, values in parts.items()]
    print(f"batch {batch_size}, microseconds, median (fastest tenth): " + ", ".join(shown))
    return parts


def figures(batch_size: int, peers: Mapping[str, str], turns: int, tick: Tick = silent) -> list[Figure]:
    """Batches per second at a capacity of a million: sample, gather, set priorities; in turns with peers.

    Args:
        peers: from `bench.peers.client.MEMORIES`.
    """
    memory = ReplayMemory(
        SegmentShape(4, N_STEP, (84, 84), np.dtype(np.uint8)), CAPACITY, find_device("cpu"), 0, prioritized=True
    )
    fill(memory, FILLED // memory.shape.steps)
    horizon = torch.tensor(N_STEP), torch.tensor(DISCOUNT, dtype=torch.float64)
    rates: dict[str, list[float]] = {name: [] for name in ["", *peers]}
    with started(
        peers, {"batch_size": batch_size, "capacity": CAPACITY, "filled": FILLED}, torch.get_num_threads()
    ) as processes:
        for turn in range(-2, turns):  # negative: warm-up
            start = time.perf_counter()
            for _ in range(BATCHES):
                sample = memory.sample(batch_size)
                memory.gather(sample, *horizon)
                memory.set_priorities(sample, torch.rand(batch_size, dtype=torch.float64) + 0.1)
            found = {"": BATCHES / (time.perf_counter() - start), **timed(processes, BATCHES)}
            tick((turn + 2) / (turns + 2))
            if turn >= 0:
                for name, rate in found.items():
                    rates[name].append(rate)
    ours, *others = ([1e6 / rate for rate in values] for values in rates.values())
    beside = dict(zip(peers, others, strict=True))
    name = f"capacity 1M, batch {batch_size}: sample, gather, priorities"
    return [Figure.of_turns("replay", name, "us a batch", ours, peers=beside, less_is_better=True)]


def random_segment(shape: SegmentShape, generator: np.random.Generator) -> Segment:
    """A segment with all its steps from one episode."""
    rows = shape.rows
    return Segment(
        frame=generator.integers(256, size=(rows, *shape.frame_shape), dtype=np.uint8),
        action=generator.integers(6, size=rows, dtype=np.int32),
        reward=generator.normal(size=rows).astype(np.float32),
        discount=np.ones(rows, np.float32),
        weights_version=np.ones(rows, np.int32),
        stream=np.zeros((1, len(STREAM_FIELDS)), np.int64),
    )


def synchronize(memory: ReplayMemory) -> None:
    """Waits until the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
