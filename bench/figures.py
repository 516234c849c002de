"""Benchmark figures with their limits and peers: printed, written as JSON, drawn as bars."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import matplotlib.figure
import numpy as np
import torch

from sbrl.storage.atomic import replace_text
from sbrl.storage.metadata import hardware

RESAMPLES = 10_000


class Interval(NamedTuple):
    """A median, and the range of the medians of 95 % of bootstrap samples."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """The interval of one or more values, one from each turn."""
        array = np.asarray(values, np.float64)
        resampled = np.random.default_rng(0).choice(array, (RESAMPLES, len(array)))
        low, high = np.quantile(np.median(resampled, axis=1), (0.025, 0.975))
        return cls(float(np.median(array)), float(low), float(high))

    @property
    def spread(self) -> str:
        """The range in brackets; empty for a single reading."""
        return "" if self.low == self.high else f" ({number(self.low)} to {number(self.high)})"


class Beside(NamedTuple):
    """A limit or a peer of a figure, in the same unit."""

    value: float
    ratio: Interval  # how many times as good the figure is; above 1 is better, even if a lower value is better

    def __str__(self) -> str:
        ratio = self.ratio
        spread = "" if ratio.low == ratio.high else f"; {ratio.low:.2f} to {ratio.high:.2f}"
        return f"{number(self.value)} ({ratio.median:.2f} x{spread})"


class Figure(NamedTuple):
    """One reading."""

    part: str
    name: str
    value: Interval
    unit: str
    limit_name: str = ""
    limit: Beside | None = None
    peers: Mapping[str, Beside] = MappingProxyType({})

    @classmethod
    def of_turns(
        cls,
        part: str,
        name: str,
        unit: str,
        values: Sequence[float],
        *,
        limit_name: str = "",
        limit: Sequence[float] = (),
        peers: Mapping[str, Sequence[float]] = MappingProxyType({}),
        less_is_better: bool = False,
    ) -> Figure:
        """A figure from readings made in turns: the k-th readings are compared. A single number applies to all turns."""

        def beside(others: Sequence[float]) -> Beside:
            others = list(others) * len(values) if len(others) == 1 else others
            ratios = [ours / other for ours, other in zip(values, others, strict=True)]
            ratio = Interval.of([1 / ratio for ratio in ratios] if less_is_better else ratios)
            return Beside(float(np.median(others)), ratio)

        return cls(
            *(part, name, Interval.of(values), unit, limit_name),
            limit=beside(limit) if len(limit) else None,
            peers={name: beside(others) for name, others in peers.items()},
        )

    @classmethod
    def of_json(cls, tree: Mapping[str, Any]) -> Figure:
        """The inverse of `_asdict`, from a file."""

        def beside(value: Any) -> Beside:
            return Beside(value[0], Interval(*value[1]))

        limit = None if tree["limit"] is None else beside(tree["limit"])
        peers = {name: beside(value) for name, value in tree["peers"].items()}
        return cls(**{**tree, "value": Interval(*tree["value"]), "limit": limit, "peers": peers})

    @property
    def beside(self) -> Mapping[str, Beside]:
        """Limit and peers by name."""
        return {**({self.limit_name: self.limit} if self.limit is not None else {}), **self.peers}

    def line(self) -> str:
        """The figure as a line of text."""
        others = "".join(f"; {name} {value}" for name, value in self.beside.items())
        return f"{self.part}: {self.name}: {number(self.value.median)} {self.unit}{self.value.spread}{others}"


class Record(NamedTuple):
    """The figures of one part, with the command and machine that they are from."""

    command: str
    machine: Mapping[str, Any]
    figures: Sequence[Figure]


def number(value: float) -> str:
    """A number with at least three digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def machine() -> dict[str, Any]:
    """A description of this machine, with its load before the measurements."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "hardware": hardware(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "load_1m": round(os.getloadavg()[0], 2),
    }


def save(records: Mapping[str, Record], folder: Path) -> None:
    """Writes bench.json and bench.png to `folder`. Records of other parts in bench.json stay."""
    folder.mkdir(parents=True, exist_ok=True)
    together = {**load(folder / "bench.json"), **records}
    write(together, folder / "bench.json")
    draw([figure for record in together.values() for figure in record.figures], folder / "bench.png")


def write(records: Mapping[str, Record], path: Path) -> None:
    tree = {
        part: {**record._asdict(), "figures": [{**figure._asdict(), "peers": dict(figure.peers)} for figure in record.figures]}
        for part, record in records.items()
    }
    replace_text(path, json.dumps(tree, indent=1) + "\n")


def load(path: Path) -> dict[str, Record]:
    """Reads the records of a bench.json, by part; empty if there is no such file."""
    if not path.exists():
        return {}
    tree = json.loads(path.read_text(encoding="utf-8"))
    return {
        part: Record(**{**value, "figures": [Figure.of_json(one) for one in value["figures"]]}) for part, value in tree.items()
    }


def draw(figures: Sequence[Figure], path: Path) -> None:
    """Draws a bar for each pair of a figure and its limit or peer. Its length is how many times as good the figure is."""
    bars = [
        (f"{figure.part}: {figure.name}\nbeside {name}", beside.ratio)
        for figure in figures
        for name, beside in figure.beside.items()
    ]
    drawing = matplotlib.figure.Figure(figsize=(9, 0.5 * len(bars) + 1.2), layout="constrained")
    axes = drawing.subplots()
    ratios = [ratio.median for _, ratio in bars]
    errors = [[ratio.median - ratio.low for _, ratio in bars], [ratio.high - ratio.median for _, ratio in bars]]
    axes.barh(range(len(bars)), ratios, xerr=errors if bars else None, tick_label=[label for label, _ in bars])
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xlabel("times as good as what it stands beside")
    axes.invert_yaxis()
    drawing.savefig(path)
