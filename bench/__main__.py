"""Every part's speed beside its limit: the learner's updates, its replay memory, an actor, and a whole run.

    python -m bench --out runs/bench
    python -m bench --parts learner,replay

Prints a line for each figure, and writes bench.json and bench.png. A whole run is `sbrl train` on Pong, its programs' start and
its last evaluation included; it is limited by what the slower of actor and learner reaches alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from bench import actor, learner, memory
from bench.figures import Figure, save
from learner.algorithm.update import configure_torch
from learner.memory.replay import ReplayMemory
from sbrl import config
from sbrl.config.presets import PRESETS
from sbrl.errors import RunError
from sbrl.replay.segments import SegmentShape
from sbrl.runtime.arguments import whole_number
from sbrl.runtime.program import run_program

PARTS = ("learner", "replay", "actor", "run")
ROUNDS, CAPACITY, FILLED = 1000, 1_000_000, 1000  # of the memory: batches, transitions, segments that are there


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="of " + ", ".join(PARTS))
    parser.add_argument("--steps", type=whole_number(2000, 2**31), default=20_000, help="env steps of the whole run (20,000)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="where bench.json and bench.png go")
    arguments = parser.parse_args(argv)
    parts = arguments.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--parts {arguments.parts}: {', '.join(sorted(unknown))} is none of {', '.join(PARTS)}")
    configure_torch(1)
    figures: list[Figure] = []
    measures: Mapping[str, Callable[[], list[Figure]]] = {
        "learner": learners,
        "replay": replay,
        "actor": lambda: [actor.measure(200)],
    }
    for part in (part for part in PARTS if part in parts):
        found = [whole_run(arguments.steps, figures)] if part == "run" else measures[part]()
        print(*(figure.line() for figure in found), sep="\n", flush=True)
        figures += found
    save(figures, arguments.out)


def learners() -> list[Figure]:
    """The default preset's update at batch 8 and 32."""
    found = []
    for size in (8, 32):
        settings = config.build(PRESETS["qr-dqn"].settings, {"learner": {"batch_size": size, "diagnostics_period": None}})
        found += learner.measure("qr-dqn", settings, turns=10)
    return found


def replay() -> list[Figure]:
    """Sample, gather and priorities of a batch, at a capacity of a million."""
    shape = SegmentShape(4, 3, (84, 84), np.dtype(np.uint8))
    held = ReplayMemory(shape, CAPACITY, torch.device("cpu"), seed=0, prioritized=True)
    memory.fill(held, FILLED)
    found = []
    for size in (8, 32):
        together = statistics.median(memory.measure(held, size, ROUNDS)["together"])
        found.append(Figure("replay", f"memory of 1M, batch {size}", 1e6 / together, "batches/s"))
    return found


def whole_run(steps: int, before: Sequence[Figure]) -> Figure:
    """Env steps a second of the default preset, all in one."""
    with tempfile.TemporaryDirectory(prefix="sbrl-bench-") as folder:
        run = Path(folder) / "run"
        settings = [f"run.env_steps={steps}", "evaluator.episodes=1", "evaluator.num_envs=1", "env.max_episode_steps=1000"]
        done = subprocess.run(
            [sys.executable, "-m", "sbrl.cli", "train", "--run-dir", str(run), *settings],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RunError(f"the run to be measured failed: {done.stderr.strip()}")
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    alone = {figure.part: figure.value for figure in reversed(before)}  # of each part the first: batch 8
    per_step = config.load().learner.updates_per_step
    limits = [alone[part] / (per_step if part == "learner" else 1.0) for part in ("actor", "learner") if part in alone]
    limit = min(limits) if limits else None
    name = f"Pong, batch 8, {steps:,} env steps"
    return Figure("run", name, summary["env_steps_per_second"], "env steps/s", limit, "the slower part alone" if limit else "")


if __name__ == "__main__":
    run_program(main)
