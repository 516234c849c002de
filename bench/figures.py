"""What benchmarks find, each beside what limits it: printed, written as JSON, drawn as bars."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import matplotlib.figure
import torch

from sbrl.storage.atomic import replace_text


class Figure(NamedTuple):
    """One reading; `limit` and `peers` are in the same unit, read in turns with it."""

    part: str  # learner, replay, actor, run
    name: str
    value: float
    unit: str
    limit: float | None = None
    limit_name: str = ""
    peers: Mapping[str, float] = MappingProxyType({})

    def line(self) -> str:
        """For people."""
        beside = {**({self.limit_name: self.limit} if self.limit is not None else {}), **self.peers}
        others = "".join(f"; {name} {value:,.1f} (ratio {self.value / value:.2f})" for name, value in beside.items())
        return f"{self.part}: {self.name}: {self.value:,.1f} {self.unit}{others}"


def machine() -> dict[str, str | int | float]:
    """What the figures are of, and how busy it was."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 0,
        "device": device,
        "torch": torch.__version__,
        "load_1m": os.getloadavg()[0],
    }


def save(figures: Sequence[Figure], folder: Path) -> None:
    """bench.json and bench.png in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine(), "figures": [figure._asdict() | {"peers": dict(figure.peers)} for figure in figures]}
    replace_text(folder / "bench.json", json.dumps(content, indent=2) + "\n")
    drawing = matplotlib.figure.Figure(figsize=(9, 0.6 * len(figures) + 1.2), layout="constrained")
    axes = drawing.subplots()
    shares = [(figure, figure.value / figure.limit) for figure in figures if figure.limit]
    axes.barh([f"{figure.name}\n{figure.limit_name}" for figure, _ in shares], [share for _, share in shares])
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xlabel("figure / its limit")
    axes.invert_yaxis()
    drawing.savefig(folder / "bench.png")
