"""`sbrl bench`: measures learner, replay memory, actor and a whole run, against their limits and their peers.

Prints a line for each figure, and writes bench.json and bench.png (a bar for each ratio) to --out. Things that are compared are
measured in turns. Figures are medians; brackets hold the medians of 95 % of bootstrap samples. A whole run is `sbrl train` on
Pong: the seconds to its first update and where they go, then its env steps per second. --peers adds other libraries
(`make bench-peers`, in a checkout).
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench import actor, documents, learner, memory, whole_run
from bench.figures import Figure, Record, machine, save
from bench.peers import client
from bench.progress import Progress, Tick
from learner.algorithm.update import configure_torch
from sbrl import config
from sbrl.config.presets import PRESETS
from sbrl.runtime.arguments import Parser, whole_number
from sbrl.runtime.program import run_program

PARTS = ("learner", "replay", "actor", "run")
BATCH_SIZES = (8, 32)
# Seconds for each part on two idle cores, without and with peers.
SECONDS: Mapping[str, tuple[float, float]] = {"learner": (90, 240), "replay": (25, 70), "actor": (60, 60), "run": (180, 420)}


def main(argv: Sequence[str]) -> None:
    parser = Parser(prog="sbrl bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=_parts, default=PARTS, metavar="NAME,...", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument(
        "--peers", action="store_true", help="measure other libraries beside ours; takes .venv-peers of a checkout"
    )
    parser.add_argument("--turns", type=whole_number(3, 1000), default=20, help="readings of each figure but a run's (20)")
    parser.add_argument("--runs", type=whole_number(1, 100), default=1, help="whole runs at each batch size (1)")
    parser.add_argument("--steps", type=whole_number(2000, 2**31), default=30_000, help="env steps of a whole run (30,000)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), metavar="DIR", help="where results go (runs/bench)")
    parser.add_argument(
        "--document", action="store_true", help="also write docs/bench.json and the tables of docs/benchmarks.md, in a checkout"
    )
    arguments = parser.parse_args(argv)
    if arguments.peers:
        client.check_ready()
    if arguments.document:
        documents.check_checkout()
    configure_torch(1)
    measures: Mapping[str, Callable[[Tick], list[Figure]]] = {
        "learner": lambda tick: learners(arguments.turns, arguments.peers, tick),
        "replay": lambda tick: memories(arguments.turns, arguments.peers, tick),
        "actor": lambda tick: actor.measure(50, tick),
        "run": lambda tick: whole_run.figures(arguments.steps, BATCH_SIZES, arguments.peers, arguments.runs, tick),
    }
    progress = Progress({part: SECONDS[part][arguments.peers] for part in arguments.parts})
    records = {}
    for part in arguments.parts:
        before = machine()
        figures = measures[part](progress.part(part))
        print(*(figure.line() for figure in figures), sep="\n", flush=True)
        command = shlex.join(["sbrl", "bench", "--parts", part, *(["--peers"] if arguments.peers else [])])
        records[part] = Record(command, before, figures)
        save(records, arguments.out)  # after each part: a later one may fail
    if arguments.document:
        documents.document(records)
    print(f"Results: {arguments.out / 'bench.json'}, {arguments.out / 'bench.png'}")


def learners(turns: int, with_peers: bool, tick: Tick) -> list[Figure]:
    """The default preset's update."""
    found: list[Figure] = []
    for number, size in enumerate(BATCH_SIZES):
        settings = config.build(PRESETS["qr-dqn"].settings, {"learner": {"batch_size": size, "diagnostics_period": None}})
        peers = client.UPDATES if with_peers else {}
        found += learner.measure("qr-dqn", settings, turns, peers=peers, tick=_of(tick, number, len(BATCH_SIZES)))
    return found


def memories(turns: int, with_peers: bool, tick: Tick) -> list[Figure]:
    found: list[Figure] = []
    for number, size in enumerate(BATCH_SIZES):
        peers = client.MEMORIES if with_peers else {}
        found += memory.figures(size, peers, turns, _of(tick, number, len(BATCH_SIZES)))
    return found


def _of(tick: Tick, number: int, count: int) -> Tick:
    """The tick of one of `count` equal fractions of a part."""
    return lambda share: tick((number + share) / count)


def _parts(text: str) -> tuple[str, ...]:
    names = text.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(PARTS)}")
    return tuple(part for part in PARTS if part in names)


if __name__ == "__main__":
    run_program(main)
