"""Evaluates every panel of the dashboards against a Prometheus and draws what came: `python -m scripts.dashboard_pictures`.

One picture a dashboard; exits with 1 and the list of panels for which there was no data.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

from scripts.dashboards import dashboards

WINDOW_SECONDS = 3600.0
POINTS = 240
COLUMNS = 24  # of Grafana's grid
UNIT_INCHES = 0.6
STATE_NAMES = 3  # columns that the names of states take
SCALES = {"percentunit": (100.0, "%"), "bytes": (1 / 2**20, "MiB"), "s": (1.0, "s"), "cps": (1.0, "1/s")}

Series = tuple[str, list[float], list[float]]  # legend, minutes before now, values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prometheus", metavar="HOST:PORT")
    parser.add_argument("directory", type=Path, metavar="DIR", help="where the pictures go")
    parser.add_argument("--namespace", default="local")
    parser.add_argument("--release", default="run")
    parser.add_argument("--minutes", type=float, default=WINDOW_SECONDS / 60, help="how far back (default: %(default)g)")
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    names = {"namespace": arguments.namespace, "release": arguments.release}
    empty = []
    for file, model in dashboards().items():
        drawn = {
            panel["id"]: series_of(arguments.prometheus, panel, names, arguments.minutes * 60) for panel in model["panels"]
        }
        empty += [f"{model['title']}: {panel['title']}" for panel in model["panels"] if not drawn[panel["id"]]]
        draw(model, drawn, arguments.directory / Path(file).with_suffix(".png").name)
    sys.exit("no data for: " + "; ".join(empty) if empty else 0)


def series_of(address: str, panel: dict[str, Any], names: dict[str, str], seconds: float) -> list[Series]:
    """What Prometheus has for a panel."""
    found: list[Series] = []
    for target in panel["targets"]:
        expression = target["expr"]
        for name, value in names.items():
            expression = expression.replace(f"${name}", value)
        for result in query_range(address, expression, seconds):
            points = [(float(at), float(value)) for at, value in result["values"]]
            points = [(at, value) for at, value in points if math.isfinite(value)]
            if points:
                legend = target["legendFormat"]
                for label, value in result["metric"].items():
                    legend = legend.replace(f"{{{{{label}}}}}", value)
                legend = re.sub(r"{{.*?}}", "-", legend)  # a label that these series do not have
                ages = [(at - time.time()) / 60 for at, _ in points]
                found.append(("" if legend == "__auto" else legend, ages, [value for _, value in points]))
    return found


def query_range(address: str, expression: str, seconds: float) -> list[dict[str, Any]]:
    """Prometheus' answer for the last `seconds` seconds."""
    now = time.time()
    question = urllib.parse.urlencode({"query": expression, "start": now - seconds, "end": now, "step": seconds / POINTS})
    with urllib.request.urlopen(f"http://{address}/api/v1/query_range?{question}", timeout=30) as response:
        result: list[dict[str, Any]] = json.load(response)["data"]["result"]
    return result


def draw(model: dict[str, Any], drawn: dict[int, list[Series]], path: Path) -> None:
    """The dashboard as a picture, each panel at its place in the grid."""
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in model["panels"])
    figure = pyplot.figure(figsize=(COLUMNS * UNIT_INCHES, height * UNIT_INCHES * 0.6 + 0.6))
    grid = figure.add_gridspec(height, COLUMNS, hspace=0.4, wspace=0.6, left=0.0, right=0.98, bottom=0.02, top=0.95)
    figure.suptitle(model["title"], x=0.02, ha="left", fontsize=13)
    for panel in model["panels"]:
        place = panel["gridPos"]
        left = place["x"] + (STATE_NAMES if panel["type"] == "state-timeline" else 1)
        # A row above for the title, one below for the time.
        axes = figure.add_subplot(grid[place["y"] + 1 : place["y"] + place["h"] - 1, left : place["x"] + place["w"]])
        axes.set_title(panel["title"], fontsize=8, loc="left")
        scale, unit = SCALES.get(panel["fieldConfig"]["defaults"]["unit"], (1.0, ""))
        draw_panel(axes, panel["type"], drawn[panel["id"]], scale, unit)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def draw_panel(axes: Axes, kind: str, series: list[Series], scale: float, unit: str) -> None:
    """One panel: a number, states in time, or lines."""
    if kind == "stat":
        axes.axis("off")
        text = f"{series[0][2][-1] * scale:,.4g} {unit}" if series else "no data"
        axes.text(0.0, 0.4, text, fontsize=15, transform=axes.transAxes)
        return
    axes.tick_params(labelsize=6)
    if kind == "state-timeline":
        for row, (_, ages, _) in enumerate(series):
            axes.plot(ages, [row] * len(ages), "s", markersize=2)
        axes.set_yticks(range(len(series)), [legend for legend, _, _ in series], fontsize=5)
        return
    for legend, ages, values in series:
        axes.plot(ages, [value * scale for value in values], linewidth=0.9, label=legend)
    axes.set_ylabel(unit, fontsize=6)
    if series:
        axes.legend(fontsize=5, loc="best", frameon=False)


if __name__ == "__main__":
    main()
