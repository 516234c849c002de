"""A run's learning curve as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sbrl.config import Config
from sbrl.storage.tables import read_episodes, read_evaluations
from sbrl.v1.episodes_pb2 import Episode, Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEAN_EPISODES = 100


def write_learning_curve(episodes_csv: Path, evaluations_csv: Path, png_path: Path, config: Config) -> None:
    """Draws training returns, their running mean and the evaluations against agent steps.

    Raises:
        RunError: a table cannot be read.
    """
    # Matplotlib takes a second to load, and nothing else in a run needs it. A Figure without pyplot always draws with Agg,
    # so neither a display nor a global backend is involved.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot()
    episodes, evaluations = read_episodes(episodes_csv), read_evaluations(evaluations_csv)
    _draw_training(axes, sorted(episodes, key=lambda episode: episode.env_steps))
    _draw_evaluations(axes, sorted(evaluations, key=lambda evaluation: evaluation.env_steps))

    reached = max([episode.env_steps for episode in episodes] + [evaluation.env_steps for evaluation in evaluations], default=0)
    axes.set_xlim(0, 1.02 * (reached or config.run.env_steps))
    axes.set_xlabel("agent steps")
    axes.set_ylabel("return of an episode (unclipped)")
    axes.xaxis.set_major_formatter(_short_number)
    axes.grid(alpha=0.3)
    frames = config.env.frames_per_step
    if frames > 1:
        top = axes.secondary_xaxis("top", functions=(lambda x: np.multiply(x, frames), lambda x: np.divide(x, frames)))
        top.set_xlabel("emulator frames")
        top.xaxis.set_major_formatter(_short_number)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best")
    else:
        axes.text(0.5, 0.5, "no episode has ended yet", transform=axes.transAxes, ha="center", color="gray")
    learner = config.learner
    figure.suptitle(f"{config.env.id}: batch size {learner.batch_size}, {learner.updates_per_step:g} updates per step")
    figure.savefig(png_path, dpi=120)


def running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """The mean of each value and the values before it, at most `window` in all: float64[T] -> float64[T]."""
    # Each window is summed separately: differences of running sums would keep the rounding error of one huge value for ever.
    sums = np.convolve(values, np.ones(window))[: len(values)] if len(values) else values
    means: NDArray[np.float64] = sums / np.minimum(window, np.arange(1, len(values) + 1))
    return means


def _draw_training(axes: Axes, episodes: list[Episode]) -> None:
    if not episodes:
        return
    steps = np.array([episode.env_steps for episode in episodes])
    returns = np.array([episode.episode_return for episode in episodes], np.float64)
    axes.plot(steps, returns, ".", color="tab:blue", alpha=0.25, markersize=4, markeredgewidth=0, label="training episode")
    # A marker, because the mean of a single episode would be a line of zero length.
    means = running_mean(returns, MEAN_EPISODES)
    axes.plot(steps, means, color="tab:blue", marker="o" if len(steps) == 1 else "", label=f"mean of {MEAN_EPISODES} episodes")


def _draw_evaluations(axes: Axes, evaluations: list[Evaluation]) -> None:
    if not evaluations:
        return
    axes.errorbar(
        [evaluation.env_steps for evaluation in evaluations],
        [evaluation.return_mean for evaluation in evaluations],
        [evaluation.return_std for evaluation in evaluations],
        color="tab:orange",
        marker="o",
        markersize=5,
        capsize=3,
        label="evaluation: mean and standard deviation",
    )


def _short_number(value: float, position: float) -> str:
    """Ticks as people read them: 250k, 1.25M."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"
