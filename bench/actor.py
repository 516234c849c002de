"""Env steps a second of one actor's core on Pong, beside those of the environment alone under random actions, in turns.

    python -m bench.actor --steps 200

An actor here acts with its network, and cuts what it sees into rows; sending them is left out, and is the writer's.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import numpy as np

from actors.collector import Collector
from bench.figures import Figure
from sbrl.config import load
from sbrl.envs.make import make_envs
from sbrl.networks.build import build_network
from sbrl.networks.policy import EpsilonGreedyPolicy, use_one_thread
from sbrl.replay.segments import Row, SegmentShape, StreamRows, Transition
from sbrl.runtime.arguments import whole_number
from sbrl.runtime.program import run_program

TURNS = 5
EPSILON = 0.01


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=whole_number(1, 2**31), default=200, help="of all games at once, in each of five turns")
    print(measure(parser.parse_args(argv).steps).line())


def measure(steps: int) -> Figure:
    """In turns, medians."""
    use_one_thread()
    config = load()
    acting, alone = (make_envs(config.env, config.actors.envs_per_actor, seed=0) for _ in range(2))
    network = build_network(config.agent, acting.spec)
    policy = EpsilonGreedyPolicy(network, acting.spec.num_actions, seed=0)
    shape = SegmentShape.of(acting.spec, config.agent.stored_steps)
    collector = Collector(acting, policy, [RowsOnly(shape) for _ in range(acting.num_envs)], lambda episode: None)
    generator = np.random.default_rng(0)
    ended = np.ones(alone.num_envs, np.bool_)
    rates: dict[str, list[float]] = {"actor": [], "environment": []}
    try:
        for turn in range(TURNS + 1):
            start = time.perf_counter()
            for _ in range(steps):
                collector.step(EPSILON, weights_version=1)
            middle = time.perf_counter()
            for _ in range(steps):
                if ended.any():
                    alone.reset(ended)
                step = alone.step(generator.integers(alone.spec.num_actions, size=alone.num_envs))
                ended = step.terminated | step.truncated
            if turn:  # the first is warm-up
                work = steps * alone.num_envs
                rates["actor"].append(work / (middle - start))
                rates["environment"].append(work / (time.perf_counter() - middle))
    finally:
        acting.close()
        alone.close()
    actor, environment = (statistics.median(values) for values in rates.values())
    return Figure("actor", "Pong, 8 games", actor, "env steps/s", environment, "environment alone")


class RowsOnly:
    """A stream whose rows go nowhere."""

    def __init__(self, shape: SegmentShape) -> None:
        self._rows = StreamRows(shape, self)
        self.begin, self.end = self._rows.begin, self._rows.end

    def append(self, transition: Transition, observation: object) -> None:
        self._rows.append(transition)

    def row(self, row: Row) -> None: ...

    def segment(self) -> None: ...


if __name__ == "__main__":
    run_program(main)
