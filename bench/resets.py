"""Do resets help at a high update-to-data ratio? One agent on a MinAtar game, with and without resets.

    python -m bench.resets --jobs 2

Everything except learner.reset_period is equal: seeds, settings, steps. Runs are `sbrl train --serial`. After an interruption
the same command continues. Results: verdict and table here, resets.csv, resets-episodes.csv, resets.png.

Written down before the first run. The agent is double dueling DQN with n = 3 and uniform replay (minatar-drq-eps without its
augmentation). It has no noisy layers, because a reset would also restore their noise, and no other regularisation that could
replace resets. The game is MinAtar/SpaceInvaders. Its returns rise above chance within a few thousand steps, so 20,000 steps
with about 76,000 updates are enough to overfit the first ones. A reset follows every 20,000 updates, or 5,000 steps. There are
three, and the last leaves 4,000 steps to recover.

The measure is a run's mean training return over the last tenth of its steps. The verdict uses the difference of the arms' means
and its 95 % bootstrap interval over seeds: resets help if all of it is above 0, hurt if all of it is below, and otherwise no
difference is shown. The final agents' returns under the evaluation protocol are reported too. With 3 seeds, such an interval is
rough, and more likely too narrow than too wide.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.runs import BenchRun, run_all
from sbrl.monitor.summary import read_summary
from sbrl.runtime.program import run_program
from sbrl.storage.run_directory import RunDirectory
from sbrl.storage.tables import read_episodes

PRESET = "minatar-drq-eps"
ENV_ID = "MinAtar/SpaceInvaders-v1"
UPDATES_PER_STEP = 4
ENV_STEPS = 20_000
MIN_SIZE = 1_000  # steps before the first update
PARTS = 4  # a reset follows the updates of a quarter of the steps
SETTINGS = (
    *(f"env.id={ENV_ID}", f"learner.updates_per_step={UPDATES_PER_STEP}", "learner.random_shift=0"),
    *("learner.learning_rate=2.5e-4", "learner.adam_epsilon=3.125e-4", "learner.target_update_period=2000"),
    *(f"replay.min_size={MIN_SIZE}", "agent.epsilon_decay_steps=2000", "evaluator.episodes=50"),
)
SECONDS_PER_STEP = 0.018  # approximately, on a free core
LAST_SHARE = 0.1  # the measure is over this share of a run's steps
BINS = 20  # points of a curve
RESAMPLES = 10_000


class Arm(NamedTuple):
    """One arm: with or without resets."""

    name: str
    has_resets: bool


ARMS = (Arm("with resets", True), Arm("without resets", False))


class Result(NamedTuple):
    """One seed of one arm."""

    arm: str
    seed: int
    env_steps: int
    updates: int
    final_train_return: float  # mean of the episodes that ended in the last tenth of the steps
    final_train_episodes: int
    eval_return: float
    eval_std: float
    seconds: float


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.resets", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0,1,2", help="default: %(default)s")
    parser.add_argument(
        "--steps", type=int, default=ENV_STEPS, help="agent steps; resets follow each quarter (default: %(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, a core each (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-resets"), help="results (default: %(default)s)")
    arguments = parser.parse_args(argv)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    runs = {(arm, seed): bench_run(arm, seed, arguments.steps, arguments.out) for seed in seeds for arm in ARMS}
    run_all(list(runs.values()), arguments.jobs)
    results = [read_result(arm, seed, run.directory) for (arm, seed), run in runs.items()]
    curves = {key: read_curve(run.directory, arguments.steps) for key, run in runs.items()}
    write_tables(arguments.out, results, runs)
    draw(arguments.out / "resets.png", curves, arguments.steps)
    print(f"\n{markdown(results)}\n\nTables and curves: {arguments.out}/resets.csv, resets-episodes.csv, resets.png")
    return 0


def bench_run(arm: Arm, seed: int, env_steps: int, out: Path) -> BenchRun:
    resets = (f"learner.reset_period={env_steps // PARTS * UPDATES_PER_STEP}",) if arm.has_resets else ()
    settings = ("--preset", PRESET, f"run.seed={seed}", f"run.env_steps={env_steps}", *SETTINGS, *resets)
    return BenchRun(out / f"{arm.name.replace(' ', '-')}-seed{seed}", settings, env_steps * SECONDS_PER_STEP)


def read_result(arm: Arm, seed: int, directory: Path) -> Result:
    summary = read_summary(RunDirectory(directory).summary)
    start = summary["env_steps"] * (1 - LAST_SHARE)
    final = [one.episode_return for one in read_episodes(RunDirectory(directory).episodes) if one.env_steps > start]
    return Result(
        arm=arm.name,
        seed=seed,
        env_steps=summary["env_steps"],
        updates=summary["updates"],
        final_train_return=statistics.fmean(final),
        final_train_episodes=len(final),
        eval_return=summary["eval_return_mean"],
        eval_std=summary["eval_return_std"],
        seconds=summary["wall_seconds"],
    )


def read_curve(directory: Path, env_steps: int) -> NDArray[np.float64]:
    """Mean return of the training episodes that ended in each of BINS equal parts of a run, float64[BINS].

    A part in which no episode ended is interpolated between its neighbours.
    """
    episodes = read_episodes(RunDirectory(directory).episodes)
    place = np.minimum(np.array([one.env_steps for one in episodes]) * BINS // (env_steps + 1), BINS - 1)
    returns = np.array([one.episode_return for one in episodes])
    counts = np.bincount(place, minlength=BINS)
    filled = np.flatnonzero(counts)
    means: NDArray[np.float64] = np.interp(np.arange(BINS), filled, np.bincount(place, returns, BINS)[filled] / counts[filled])
    return means


def bootstrap_difference(first: Sequence[float], second: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """(mean(first) - mean(second), low, high): the 95 % percentile interval, both sides resampled with replacement."""
    generator = np.random.default_rng(seed)
    means = [generator.choice(np.asarray(values), (RESAMPLES, len(values))).mean(axis=1) for values in (first, second)]
    low, high = np.quantile(means[0] - means[1], [0.025, 0.975])
    return statistics.fmean(first) - statistics.fmean(second), float(low), float(high)


def verdict(low: float, high: float) -> str:
    if low > 0:
        return "resets help"
    return "resets hurt" if high < 0 else "no difference is shown"


def markdown(results: Sequence[Result]) -> str:
    """Verdict and table for docs/benchmarks.md."""
    lines = [
        "| arm | seed | env steps | updates | training return, last tenth | evaluation return | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.arm} | {one.seed} | {one.env_steps:,} | {one.updates:,} "
        f"| {one.final_train_return:.2f} ({one.final_train_episodes} episodes) "
        f"| {one.eval_return:.2f} (standard deviation {one.eval_std:.2f}) | {one.seconds:.0f} |"
        for one in results
    ]
    lines.append("")
    for measure, values in (
        ("Training return, last tenth (the measure)", [one.final_train_return for one in results]),
        ("Evaluation return", [one.eval_return for one in results]),
    ):
        first, second = ([value for one, value in zip(results, values, strict=True) if one.arm == arm.name] for arm in ARMS)
        difference, low, high = bootstrap_difference(first, second)
        interval = f" (95 % interval {low:+.2f} to {high:+.2f}, {len(first)} seeds each): {verdict(low, high)}"
        lines.append(
            f"{measure}: {statistics.fmean(first):.2f} with, {statistics.fmean(second):.2f} without, "
            f"difference {difference:+.2f}"
            f"{interval if len(first) > 1 else '; a single seed has no interval, so there is no verdict'}."
        )
    return "\n".join(lines)


def write_tables(out: Path, results: Sequence[Result], runs: Mapping[tuple[Arm, int], BenchRun]) -> None:
    """Writes resets.csv, with a row for each run, and resets-episodes.csv, with a row for each training episode."""
    with (out / "resets.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Result._fields)
        writer.writerows(results)
    with (out / "resets-episodes.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["arm", "seed", "env_steps", "episode_return", "length"])
        for (arm, seed), run in runs.items():
            for one in read_episodes(RunDirectory(run.directory).episodes):
                writer.writerow([arm.name, seed, one.env_steps, one.episode_return, one.length])


def draw(path: Path, curves: Mapping[tuple[Arm, int], NDArray[np.float64]], env_steps: int) -> None:
    """Draws each seed's training returns thin, each arm's mean over seeds thick, and resets as vertical lines."""
    from matplotlib.figure import Figure  # takes a second to import, and only this needs it

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot()
    steps = (np.arange(BINS) + 0.5) * env_steps / BINS
    for arm, color in zip(ARMS, ("tab:orange", "tab:blue"), strict=True):
        seeds = np.stack([curve for (one, _), curve in curves.items() if one == arm])
        axes.plot(steps, seeds.T, color=color, alpha=0.35, linewidth=1)
        axes.plot(steps, seeds.mean(axis=0), color=color, linewidth=2.5, label=f"{arm.name}: mean of {len(seeds)} seeds")
    for reset in range(MIN_SIZE + env_steps // PARTS, env_steps, env_steps // PARTS):
        axes.axvline(reset, color="tab:orange", linestyle=":", linewidth=1)
    axes.set_xlabel("agent steps")
    axes.set_ylabel(f"return of training episodes, mean over {env_steps // BINS:,} steps")
    axes.grid(alpha=0.3)
    axes.legend(loc="best")
    figure.suptitle(f"{ENV_ID}: {UPDATES_PER_STEP} updates of batch 32 per step")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    run_program(main)
