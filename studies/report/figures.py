"""The report's figures, as SVG for the page and as PNG files. The same input gives the same bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, ScalarFormatter

from studies.report.page import Picture
from studies.statistics.aggregates import Floats
from studies.statistics.intervals import Interval

# The width of a phone's page in CSS pixels, so that text in figures is there as large as the page's.
WIDTH, HEIGHT = 5.2, 3.3  # inches of 72 points
# Okabe and Ito's colours, which colour-blind readers can tell apart; with dashes, for print in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
STYLE: Any = {  # matplotlib types each key by itself
    "svg.hashsalt": "sbrl",
    "svg.fonttype": "none",  # text stays text, for screen readers and search
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}


def draw(name: str, title: str, description: str, paint: Callable[[Axes], None], height: float = HEIGHT) -> Picture:
    """Makes a picture. Args: paint: draws on the axes."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        paint(figure.add_subplot())
        svg, png = io.StringIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        figure.savefig(png, format="png", dpi=150, metadata={"Software": None})
    return Picture(name, title, description, _inline(svg.getvalue(), name), png.getvalue())


def curves(
    axes: Axes,
    arms: Mapping[str, tuple[Floats, Sequence[Interval] | Floats]],
    xlabel: str,
    ylabel: str,
    reference: tuple[str, Floats, Floats] | None = None,
) -> None:
    """Draws a line with a band for each arm.

    Args:
        arms: by name, the x values float64[T], and intervals, or plain values float64[T] if there is only one seed.
        reference: a published curve: its name, steps and returns.
    """
    end = max(float(steps[-1]) for steps, _ in arms.values())
    for index, (name, (steps, points)) in enumerate(arms.items()):
        colour, dash = COLOURS[index % len(COLOURS)], DASHES[(index + index // len(COLOURS)) % len(DASHES)]
        values = np.array(points, np.float64)
        if values.ndim == 2:
            axes.fill_between(steps, values[:, 1], values[:, 2], color=colour, alpha=0.15, linewidth=0)
            values = values[:, 0]
        axes.plot(steps, values, color=colour, linestyle=dash, label=name)
    if reference is not None:
        what, published_steps, returns = reference
        near = published_steps <= end
        axes.plot(published_steps[near], returns[near], color="0.4", linestyle=":", marker="s", markersize=3, label=what)
    axes.set_xlim(0, end)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    if end >= 1000:  # env steps, not hours: 0.005 hours must not become "5m"
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.legend(loc="best", fontsize=8)


def profiles(axes: Axes, thresholds: Floats, arms: Mapping[str, Sequence[Interval]]) -> None:
    """Draws performance profiles: the share of runs above each score."""
    curves(
        axes,
        {name: (thresholds, points) for name, points in arms.items()},
        "score on the common scale",
        "share of runs above it",
    )
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlim(float(thresholds[0]), float(thresholds[-1]))
    axes.set_ylim(0, 1.02)


def differences(axes: Axes, rows: Sequence[tuple[str, Interval]], xlabel: str) -> None:
    """Draws a forest plot: one interval per row, with a line at zero difference."""
    for place, (_, one) in enumerate(rows):
        axes.plot([one.low, one.high], [place, place], color=COLOURS[0], linewidth=2)
        axes.plot(one.estimate, place, "o", color=COLOURS[0], markersize=5)
    axes.axvline(0, color="0.3", linewidth=1)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(xlabel)


def _inline(svg: str, name: str) -> str:
    """An SVG for use within a page: without XML header, as wide as the page allows, with ids unique to this figure."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    return svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1).strip()
