"""The cost of runs, and the score that it buys."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from scipy import optimize

from sbrl.errors import UsageError, shown
from studies.evidence import Place
from studies.records import Costs, RunRecord
from studies.statistics.aggregates import Floats
from studies.statistics.scaling import data_to_threshold

RESOURCES = ("core", "gpu", "bytes")
COLUMNS = ("resource", "unit", "price")
HOUR, GIGABYTE = 3600.0, 1e9


@dataclass(frozen=True)
class Prices:
    """Prices in USD."""

    core_hour: float
    gpu_hour: float
    gigabyte: float

    def of(self, costs: Costs) -> float | None:
        """The price of a run; None if its core or GPU time is not known. Bytes that were not measured cost nothing."""
        if costs.core_seconds is None or costs.gpu_seconds is None:
            return None
        hours = (self.core_hour * costs.core_seconds + self.gpu_hour * costs.gpu_seconds) / HOUR
        return hours + self.gigabyte * (costs.bytes_moved or 0.0) / GIGABYTE


@dataclass(frozen=True)
class ArmCost:
    """Means over an arm's runs up to the last horizon; None if a run lacks the value."""

    wall_seconds: float | None
    updates_per_second: float | None
    core_seconds: float | None
    gpu_seconds: float | None
    bytes_moved: float | None
    money: float | None  # USD
    env_steps: float  # the last horizon
    score: float  # IQM there, on the common scale

    @property
    def score_per_million_steps(self) -> float:
        return self.score / (self.env_steps / 1e6)

    @property
    def score_per_hour(self) -> float | None:
        return self.score / (self.wall_seconds / HOUR) if self.wall_seconds else None

    @property
    def score_per_money(self) -> float | None:
        return self.score / self.money if self.money else None


def load_prices(path: Path | None) -> Prices:
    """Prices from a CSV file with the columns resource, unit, price; by default studies/data/prices.csv.

    Raises:
        UsageError: the file cannot be read, lacks a resource, or has a price that is negative or not a number.
    """
    try:
        source = path if path is not None else resources.files("studies").joinpath("data/prices.csv")
        rows = list(csv.DictReader(source.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read prices {path}: {error}") from None
    found: dict[str, float] = {}
    for row in rows:
        try:
            price = float(row["price"])
        except (KeyError, TypeError, ValueError):
            price = math.nan
        if row.get("resource") not in RESOURCES or not 0 <= price < math.inf:
            raise UsageError(
                f"prices {path}: {shown(dict(row))} is no price: give {','.join(COLUMNS)}, with a resource of "
                f"{', '.join(RESOURCES)} and a number from 0 on"
            )
        found[row["resource"]] = price
    missing = [name for name in RESOURCES if name not in found]
    if missing:
        raise UsageError(f"prices {path} has none for {', '.join(missing)}: give one, 0 where it is free")
    return Prices(found["core"], found["gpu"], found["bytes"])


def length_of(run: RunRecord) -> int:
    """The env steps that a run was to have."""
    found = run.settings.get("run.env_steps")
    return found if isinstance(found, int) else run.counts.env_steps


def incomplete_curves(runs: Mapping[Place, RunRecord]) -> list[Place]:
    """The runs whose learning curve lacks points: it ends before the run, or others of that length have more points.

    A run that is scored by evaluation may have no curve at all, because no training episode ended.
    """
    points: dict[int, int] = defaultdict(int)
    for run in runs.values():
        points[length_of(run)] = max(points[length_of(run)], len(run.returns))
    return [
        place
        for place, run in runs.items()
        if (run.returns and run.returns[-1][0] != length_of(run))
        or (len(run.returns) < points[length_of(run)] and (run.returns or run.score == "training"))
    ]


def arm_cost(runs: Sequence[RunRecord], score: float, prices: Prices, env_steps: int) -> ArmCost:
    """Of a longer run it takes the part up to `env_steps`, as if time, money and bytes passed evenly over steps.

    Args:
        runs: complete runs of one arm.
        score: their IQM at the last horizon.
        env_steps: the last horizon.
    """
    parts = [min(1.0, env_steps / max(1, length_of(run))) for run in runs]
    rates = [run.counts.updates / run.costs.wall_seconds if run.costs.wall_seconds else None for run in runs]
    return ArmCost(
        wall_seconds=_mean((run.costs.wall_seconds for run in runs), parts),
        updates_per_second=_mean(rates),
        core_seconds=_mean((run.costs.core_seconds for run in runs), parts),
        gpu_seconds=_mean((run.costs.gpu_seconds for run in runs), parts),
        bytes_moved=_mean((run.costs.bytes_moved for run in runs), parts),
        money=_mean((prices.of(run.costs) for run in runs), parts),
        env_steps=float(env_steps),
        score=score,
    )


def total_money(records: Iterable[RunRecord], prices: Prices) -> float | None:
    """The price of a whole study, including tuning and failed runs; None if a run's price is not known."""
    found = [prices.of(record.costs) for record in records]
    known = [value for value in found if value is not None]
    return sum(known) if len(known) == len(found) else None


def break_even(steps: Floats, candidate: Floats, baseline: Floats) -> float | None:
    """The share of the steps after which the candidate's curve reaches the end of the baseline's; None if it never does.

    This compares curves, not scores: a score is the mean of the last episodes, or an evaluation.

    Args:
        steps: float64[T]; candidate, baseline: float64[T], the IQM at each step. Both are made monotone first.
    """
    if len(steps) == 0:
        return None
    end = float(optimize.isotonic_regression(baseline).x[-1])
    needed = data_to_threshold(steps, candidate, end)
    return float(needed / steps[-1]) if math.isfinite(needed) else None


def _mean(values: Iterable[float | None], parts: Sequence[float] | None = None) -> float | None:
    """Args: parts: the part of each value that counts; by default the whole."""
    found = list(values)
    known = [value for value in found if value is not None]
    if not known or len(known) < len(found):
        return None
    return float(np.mean(known if parts is None else np.multiply(known, parts)))
