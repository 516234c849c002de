"""Which returns of an environment count as 0 and as 1, so that environments can be combined.

The scale comes from studies/data/scales.csv if the environment is there. Otherwise it comes from the compared runs of all arms:
their highest score is 1, and 0 is a return of zero, or their lowest score if that is below zero.
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


def known_scale(environment: str) -> Scale | None:
    """The scale in studies/data/scales.csv of an env.id."""
    game = game_of(environment)
    with resources.files("studies").joinpath("data/scales.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["environment"] == game and (row["source"] != "atari" or "ALE/" in environment):
                return Scale(float(row["low"]), float(row["high"]), SOURCES[row["source"]])
    return None


def scale_of(environment: str, scores: Iterable[float]) -> Scale:
    """
    Args:
        environment: env.id.
        scores: of all compared runs there, at all horizons.
    """
    known = known_scale(environment)
    if known is not None:
        return known
    found = sorted(scores)
    low, high = (min(found[0], 0.0), found[-1]) if found else (0.0, 1.0)
    if low == high:  # all scores are equal, so any width will do
        high = low + 1.0
    zero = "the lowest" if low < 0 else "a return of zero"
    return Scale(low, high, f"0 is {zero} and 1 the highest score of the runs that are compared")
