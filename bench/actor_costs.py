"""CPU time of one agent step of one game, split into environment, policy and writing to a shard.

    python -m bench.actor_costs --steps 300

Two actors of the default preset play in turns. The first writes to a real shard that a reader empties; the second discards its
rows. Environment and policy are timed in the second, whose process has no other busy threads. Writing is the time that the
first takes beyond these: making rows and segments, and Reverb's own threads. Figures are medians over turns.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from actors.collector import Collector
from actors.segment_stream import SegmentStream
from bench.actor import RowsOnly
from bench.segments import WAIT_SECONDS, Counter, start_part
from sbrl.config import load
from sbrl.envs.make import make_envs
from sbrl.networks.build import build_network
from sbrl.networks.policy import EpsilonGreedyPolicy, use_one_thread
from sbrl.replay.queue_probe import QueueProbe
from sbrl.replay.segment_reader import SegmentReader
from sbrl.replay.segment_writer import SegmentWriter
from sbrl.replay.segments import SegmentShape, Stream
from sbrl.rpc.ports import free_ports
from sbrl.runtime.arguments import whole_number
from sbrl.runtime.program import run_program

TURNS = 7
EPSILON = 0.01
LOG_STEPS = 200_000  # capacity of the shard's log


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=whole_number(1, 2**31), default=300, help="of all eight games, in each of seven turns")
    parser.add_argument("--part", choices=["reader"], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.part == "reader":
        read_until_closed(f"127.0.0.1:{arguments.port}")
        return
    (port,) = free_ports("127.0.0.1", 1)
    shard = start_part("shard", ["--steps", str(LOG_STEPS), "--port", str(port)])
    command = [sys.executable, "-m", "bench.actor_costs", "--part", "reader", "--port", str(port)]
    reader = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        measured = measure(f"127.0.0.1:{port}", arguments.steps)
    finally:
        reader.communicate()  # closes its input, which ends it
        shard.kill()
        shard.wait()
    print("| of an agent step of one game | CPU, us |\n|---|---|")
    for name, microseconds in measured.items():
        print(f"| {name} | {microseconds:.0f} |")
    print(f"| together, of which the environment | {measured['environment'] / sum(measured.values()):.2f} |")


def read_until_closed(address: str) -> None:
    config = load()
    envs = make_envs(config.env, 1, seed=0)
    shape = SegmentShape.of(envs.spec, config.agent.stored_steps)
    envs.close()
    reader = SegmentReader(address, 0, shape, Counter(2**62).take)
    reader.start()
    sys.stdin.read()
    reader.stop()


def measure(address: str, steps: int) -> dict[str, float]:
    """Microseconds by part."""
    use_one_thread()
    config, spent = load(), Spent()
    writing, playing = (make_envs(config.env, config.actors.envs_per_actor, seed=0) for _ in range(2))
    games, shape = writing.num_envs, SegmentShape.of(writing.spec, config.agent.stored_steps)
    probe, stop = QueueProbe(address, 0), threading.Event()
    probe.start()
    probe.wait_answer(WAIT_SECONDS)
    streams = [
        SegmentStream(
            SegmentWriter([address], shape, age=lambda: 0), shape, [probe], Stream(0, int(time.time()), env, 0), 0, stop, 10.0
        )
        for env in range(games)
    ]
    policies = [
        EpsilonGreedyPolicy(build_network(config.agent, writing.spec), writing.spec.num_actions, seed=0) for _ in range(2)
    ]
    actor = Collector(writing, policies[0], streams, lambda episode: None)
    spent.watch(playing, "step", "environment")
    spent.watch(playing, "reset", "environment")
    spent.watch(policies[1], "act", "policy")
    player = Collector(playing, policies[1], [RowsOnly(shape) for _ in range(games)], lambda episode: None)
    found: dict[str, list[float]] = {"environment": [], "policy": [], "whole": []}
    try:
        for turn in range(TURNS + 1):
            start = time.process_time()
            for _ in range(steps):
                actor.step(EPSILON, weights_version=1)
            whole = time.process_time() - start
            spent.clear()
            for _ in range(steps):
                player.step(EPSILON, weights_version=1)
            if turn:  # the first is warm-up
                for name, seconds in (*spent.seconds.items(), ("whole", whole)):
                    found[name].append(1e6 * seconds / (steps * games))
    finally:
        stop.set()
        for stream in streams:
            stream.close()
        probe.stop()
        writing.close()
        playing.close()
    median = {name: statistics.median(values) for name, values in found.items()}
    whole = median.pop("whole")
    return {**median, "writing": whole - sum(median.values())}


class Spent:
    """Measures the CPU seconds of chosen methods."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def clear(self) -> None:
        self.seconds = dict.fromkeys(self.seconds, 0.0)

    def watch(self, thing: Any, method: str, name: str) -> None:
        """Times each call of a method of `thing` from now on."""
        called: Callable[..., Any] = getattr(thing, method)
        self.seconds[name] = 0.0

        def timed(*arguments: Any) -> Any:
            start = time.process_time()
            try:
                return called(*arguments)
            finally:
                self.seconds[name] += time.process_time() - start

        setattr(thing, method, timed)


if __name__ == "__main__":
    run_program(main)
