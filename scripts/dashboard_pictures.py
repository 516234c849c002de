"""Evaluates every panel of the dashboards against a Prometheus and draws it.

`python -m scripts.dashboard_pictures`.

One picture per dashboard. Exits with 1 and a list of panels if these have no data.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import textwrap
import time
import urllib.parse
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from PIL import Image

from sbrl.monitor.observation import DIRECT
from scripts.dashboards import dashboards

WINDOW_SECONDS = 3600.0
POINTS = 240
COLUMNS = 24  # of Grafana's grid
UNIT_INCHES, ASPECT, TITLE_INCHES = 0.55, 0.56, 0.5
CHARACTERS = 230  # of legend text that fit into the picture's width
DPI, PALETTE = 90, 160
COLORS = {"text": "black", "green": "#3a9d4b", "red": "#c4162a", "yellow": "#e5b800", "blue": "#3274d9", "purple": "#a352cc"}

Series = tuple[str, list[float], list[float]]  # legend, minutes before now, values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prometheus", metavar="HOST:PORT")
    parser.add_argument("directory", type=Path, metavar="DIR", help="where the pictures go")
    parser.add_argument("--namespace", default="local")
    parser.add_argument("--release", default="run")
    parser.add_argument("--minutes", type=float, default=WINDOW_SECONDS / 60, help="how far back (default: %(default)g)")
    parser.add_argument("--at", type=float, metavar="SECONDS", help="the end of that time, since 1970 (default: now)")
    arguments = parser.parse_args()
    end = arguments.at or time.time()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    names = {"namespace": arguments.namespace, "release": arguments.release}
    empty = []
    for file, model in dashboards().items():
        drawn = {
            panel["id"]: series_of(arguments.prometheus, panel, names, arguments.minutes * 60, end) for panel in model["panels"]
        }
        empty += [f"{model['title']}: {panel['title']}" for panel in model["panels"] if not drawn[panel["id"]]]
        draw(model, drawn, arguments.directory / Path(file).with_suffix(".png").name)
    sys.exit("no data for: " + "; ".join(empty) if empty else 0)


def series_of(address: str, panel: dict[str, Any], names: dict[str, str], seconds: float, end: float) -> list[Series]:
    """Prometheus' series for a panel in the last `seconds` before `end`."""
    found: list[Series] = []
    for target in panel["targets"]:
        expression = target["expr"]
        for name, value in names.items():
            expression = expression.replace(f"${name}", value)
        for result in query_range(address, expression, seconds, end):
            points = [(float(at), float(value)) for at, value in result["values"]]
            points = [(at, value) for at, value in points if math.isfinite(value)]
            if points:
                legend = target["legendFormat"]
                for label, value in result["metric"].items():
                    legend = legend.replace(f"{{{{{label}}}}}", value)
                legend = re.sub(r"{{.*?}}", "-", legend)  # a label that this series does not have
                ages = [(at - end) / 60 for at, _ in points]
                found.append(("" if legend == "__auto" else legend, ages, [value for _, value in points]))
    return found


def query_range(address: str, expression: str, seconds: float, end: float) -> list[dict[str, Any]]:
    """Prometheus' answer for the last `seconds` seconds before `end`."""
    question = urllib.parse.urlencode({"query": expression, "start": end - seconds, "end": end, "step": seconds / POINTS})
    with DIRECT.open(f"http://{address}/api/v1/query_range?{question}", timeout=30) as response:
        result: list[dict[str, Any]] = json.load(response)["data"]["result"]
    return result


def draw(model: dict[str, Any], drawn: dict[int, list[Series]], path: Path) -> None:
    """Draws the dashboard as a picture, with each panel at its place in the grid."""
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in model["panels"])
    figure = pyplot.figure(figsize=(COLUMNS * UNIT_INCHES, height * UNIT_INCHES * ASPECT + TITLE_INCHES))
    top = 1 - TITLE_INCHES / figure.get_figheight()
    figure.text(0.01, (1 + top) / 2, model["title"], va="center", fontsize=14, weight="bold")
    for panel in model["panels"]:
        place = panel["gridPos"]
        left, width = place["x"] / COLUMNS, place["w"] / COLUMNS
        bottom, tall = top * (1 - (place["y"] + place["h"]) / height), top * place["h"] / height
        frame = figure.add_axes((left + 0.004, bottom + 0.004, width - 0.008, tall - 0.008), xticks=[], yticks=[])
        frame.set_facecolor("#fafafa")
        for side in frame.spines.values():
            side.set_color("#d8d8d8")
        # Inches from the frame's edges: title above, time and legend below, the axis' numbers on the left.
        inch_x, inch_y = 1 / figure.get_figwidth(), 1 / figure.get_figheight()
        edge, upper = left + 0.1 * inch_x, bottom + tall
        figure.text(edge, upper - 0.22 * inch_y, panel["title"], fontsize=8.5, weight="bold", va="center")
        if panel["type"] == "stat":
            text, color = stat_text(panel, drawn[panel["id"]])
            figure.text(edge, bottom + 0.38 * tall, text, fontsize=17, color=color, va="center")
            continue
        explained = "\n".join(textwrap.wrap(panel["description"], int(width * 250)))
        figure.text(edge, upper - 0.36 * inch_y, explained, fontsize=6.2, color="#666666", va="top")
        rows = 0.16 * math.ceil(len(drawn[panel["id"]]) / legend_columns(panel, drawn[panel["id"]])) + 0.12
        names = 1.25 if panel["type"] == "state-timeline" else 0.5
        axes = figure.add_axes(
            (
                left + names * inch_x,
                bottom + (0.3 + rows) * inch_y,
                width - (names + 0.2) * inch_x,
                tall - (0.98 + rows) * inch_y,
            )
        )
        draw_panel(axes, panel, drawn[panel["id"]])
    figure.savefig(path, dpi=DPI)
    pyplot.close(figure)
    with Image.open(path) as picture:  # a quarter of the size: lines and letters need few colors
        picture.convert("RGB").quantize(PALETTE, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)


def draw_panel(axes: Axes, panel: dict[str, Any], series: list[Series]) -> None:
    """Draws states over time, or lines."""
    axes.tick_params(labelsize=6, length=2, color="#bbbbbb")
    for side in axes.spines.values():
        side.set_visible(False)
    states = mappings_of(panel)
    if panel["type"] == "state-timeline":
        for row, (_, ages, values) in enumerate(series):
            step = (ages[-1] - ages[0]) / max(1, len(ages) - 1)
            axes.bar(ages, 0.7, step * 1.1, row - 0.35, color=[states[int(value)][1] for value in values], align="edge")
        axes.set_ylim(-0.6, max(3, len(series)) - 0.4)
        axes.set_yticks(range(len(series)), [legend for legend, _, _ in series], fontsize=6)
        seen = {int(value) for _, _, values in series for value in values}
        handles: list[Artist] = [Patch(color=color, label=text) for value, (text, color) in states.items() if value in seen]
    else:
        axes.grid(color="#e4e4e4", linewidth=0.5)
        scale, unit = scale_of(panel["fieldConfig"]["defaults"]["unit"], [value for one in series for value in one[2]])
        handles = []
        for legend, ages, values in map(with_gaps, series):
            handles += axes.plot(ages, [value * scale for value in values], linewidth=1.0, label=legend)
        axes.yaxis.set_major_formatter(lambda value, _: f"{written(value)}{unit}")
    axes.xaxis.set_major_locator(MaxNLocator(6 if panel["gridPos"]["w"] > 8 else 4))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f} min")
    if handles:
        axes.legend(
            handles=handles,
            fontsize=6,
            loc="upper left",
            bbox_to_anchor=(-0.02, -0.12),
            ncols=legend_columns(panel, series),
            frameon=False,
            handlelength=1.2,
            columnspacing=1.0,
        )


def with_gaps(series: Series) -> Series:
    """Breaks a line where data are missing, as Grafana does."""
    legend, ages, values = series
    step = min((later - age for age, later in pairwise(ages)), default=0.0)
    broken: list[tuple[float, float]] = []
    for age, value in zip(ages, values, strict=True):
        if broken and age - broken[-1][0] > 1.5 * step:
            broken.append((age - step, math.nan))
        broken.append((age, value))
    return legend, [age for age, _ in broken], [value for _, value in broken]


def legend_columns(panel: dict[str, Any], series: list[Series]) -> int:
    """How many series names fit side by side."""
    longest = max((len(legend) for legend, _, _ in series), default=1)
    room: int = CHARACTERS * panel["gridPos"]["w"] // COLUMNS
    return max(1, min(4, room // (longest + 5)))


def stat_text(panel: dict[str, Any], series: list[Series]) -> tuple[str, str]:
    """A stat panel's text and color."""
    if not series:
        return "no data", "#999999"
    value = series[0][2][-1]
    if (found := mappings_of(panel).get(int(value))) is not None:
        return found
    color = "black"
    for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            color = COLORS.get(step["color"], step["color"])
    scale, unit = scale_of(panel["fieldConfig"]["defaults"]["unit"], [value])
    number = value * scale
    return f"{written(number)}{unit}", color


def written(number: float) -> str:
    """A number with few digits, never with an exponent."""
    return f"{number:,.0f}" if abs(number) >= 1000 or float(number).is_integer() else f"{number:.3g}"


def mappings_of(panel: dict[str, Any]) -> dict[int, tuple[str, str]]:
    """Text and color of each number that represents a state."""
    found = panel["fieldConfig"]["defaults"]["mappings"]
    options = found[0]["options"] if found else {}
    return {int(value): (one["text"], COLORS.get(one["color"], one["color"])) for value, one in options.items()}


def scale_of(unit: str, values: list[float]) -> tuple[float, str]:
    """The factor for values of a unit, and the suffix after the number."""
    largest = max(map(abs, values), default=0.0)
    match unit:
        case "bytes":
            power = min(4, max(0, int(math.log(largest, 1024)))) if largest > 0 else 0
            return 1024.0**-power, f" {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
        case "percentunit":
            return 100.0, " %"
        case "s":
            return (1000.0, " ms") if 0 < largest < 0.5 else (1.0, " s")
        case "cps":
            return 1.0, " /s"
        case _:
            return 1.0, ""


if __name__ == "__main__":
    main()
