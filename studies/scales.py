"""What counts as 0 and as 1 of an environment's returns, so that environments can be put together.

From studies/data/scales.csv where the environment is in it; else from the runs that are compared, of all arms alike: their
highest score is 1, and 0 is a return of zero, or their lowest score where that is below zero.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from importlib import resources
from typing import NamedTuple

from sbrl.storage.metadata import game_of
from studies.statistics.aggregates import Floats

SOURCES = {
    "atari": "0 is a random agent and 1 a human (Mnih et al. 2015; Wang et al. 2016)",
    "gymnasium": "0 is a random agent and 1 the threshold of Gymnasium's registry",
}


class Scale(NamedTuple):
    """A score s counts as (s - low) / (high - low)."""

    low: float
    high: float
    source: str  # in words

    def apply(self, scores: Floats) -> Floats:
        """float64[...] -> float64[...]"""
        return (scores - self.low) / (self.high - self.low)


def scale_of(environment: str, scores: Iterable[float]) -> Scale:
    """
    Args:
        environment: env.id.
        scores: of all runs that are compared there, at all horizons.
    """
    game = game_of(environment)
    with resources.files("studies").joinpath("data/scales.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["environment"] == game and (row["source"] != "atari" or "ALE/" in environment):
                return Scale(float(row["low"]), float(row["high"]), SOURCES[row["source"]])
    found = sorted(scores)
    low, high = (min(found[0], 0.0), found[-1]) if found else (0.0, 1.0)
    if low == high:  # nothing differs, so any width will do
        high = low + 1.0
    zero = "the lowest" if low < 0 else "a return of zero"
    return Scale(low, high, f"0 is {zero} and 1 the highest score of the runs that are compared")
