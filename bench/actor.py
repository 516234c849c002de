"""Env steps per second of an actor on one core on Pong, beside the environment with random actions.

    python -m bench.actor --steps 200

The actor acts with its network and makes rows from its observations. Sending them is the writer's work and is left out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import torch

from actors.collector import Collector
from bench.figures import Figure
from bench.progress import Tick, silent
from sbrl.config import Config, load
from sbrl.envs.make import make_envs
from sbrl.networks.build import build_network
from sbrl.networks.policy import EpsilonGreedyPolicy, use_one_thread
from sbrl.replay.segments import Row, SegmentShape, StreamRows, Transition
from sbrl.runtime.arguments import whole_number
from sbrl.runtime.program import run_program

TURNS = 20
EPSILON = 0.01
PRECISIONS = ("float32", "bfloat16")  # of actors.precision


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--steps", type=whole_number(1, 2**31), default=200, help="of all games at once, in each of twenty turns"
    )
    print(*(figure.line() for figure in measure(parser.parse_args(argv).steps)), sep="\n")


def measure(steps: int, tick: Tick = silent) -> list[Figure]:
    """Measures actor, environment and network in turns. The network is in float32."""
    use_one_thread()
    config = load()
    alone = make_envs(config.env, config.actors.envs_per_actor, seed=0)
    generator = np.random.default_rng(0)
    ended = np.ones(alone.num_envs, np.bool_)
    network = build_network(config.agent, alone.spec)
    seconds: dict[str, list[float]] = {name: [] for name in (*PRECISIONS, "alone", "network")}
    with ExitStack() as closing:
        closing.callback(alone.close)
        collectors = {precision: make_collector(config, precision, closing) for precision in PRECISIONS}
        for turn in range(TURNS + 1):
            marks = [time.perf_counter()]
            for collector in collectors.values():
                for _ in range(steps):
                    collector.step(EPSILON, weights_version=1)
                marks.append(time.perf_counter())
            for _ in range(steps):
                if ended.any():
                    alone.reset(ended)
                step = alone.step(generator.integers(alone.spec.num_actions, size=alone.num_envs))
                ended = step.terminated | step.truncated
            marks.append(time.perf_counter())
            observation = torch.from_numpy(step.observation)
            for _ in range(steps):
                with torch.no_grad():
                    network.q_values(observation)
            marks.append(time.perf_counter())
            tick((turn + 1) / (TURNS + 1))
            if turn:  # the first is warm-up
                for name, passed in zip(seconds, np.diff(marks), strict=True):
                    seconds[name].append(float(passed))

    def rates(times: Sequence[float]) -> list[float]:
        return [steps * alone.num_envs / time for time in times]

    both = [sum(times) for times in zip(seconds["alone"], seconds["network"], strict=True)]
    return [
        Figure.of_turns(
            *("actor", f"Pong, {alone.num_envs} games, one core, {precision}", "env steps/s", rates(seconds[precision])),
            limit_name="environment alone",
            limit=rates(seconds["alone"]),
            peers={"environment and network alone": rates(both)},
        )
        for precision in PRECISIONS
    ]


def make_collector(config: Config, precision: str, closing: ExitStack) -> Collector:
    """An actor's inner loop that discards its rows."""
    envs = make_envs(config.env, config.actors.envs_per_actor, seed=0)
    closing.callback(envs.close)
    network = build_network(config.agent, envs.spec)
    policy = EpsilonGreedyPolicy(network, envs.spec.num_actions, seed=0, precision=precision)
    shape = SegmentShape.of(envs.spec, config.agent.stored_steps)
    return Collector(envs, policy, [RowsOnly(shape) for _ in range(envs.num_envs)], lambda episode: None)


class RowsOnly:
    """A stream that discards its rows."""

    def __init__(self, shape: SegmentShape) -> None:
        self._rows = StreamRows(shape, self)
        self.begin, self.end = self._rows.begin, self._rows.end

    def append(self, transition: Transition, observation: object) -> None:
        self._rows.append(transition)

    def row(self, row: Row) -> None: ...

    def segment(self) -> None: ...


if __name__ == "__main__":
    run_program(main)
