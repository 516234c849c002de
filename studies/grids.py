"""What else a grid of arms shows: the cost of mis-set values, and how the best value depends on the ratio."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize

from studies.arms import BATCH_SIZE, LEARNING_RATE, PERIODS, TARGET_RATE, UPDATES_PER_STEP
from studies.evidence import Evidence
from studies.questions import own_settings
from studies.statistics.aggregates import Floats
from studies.statistics.scaling import PowerLaw, common_threshold, data_to_threshold, fit_best
from studies.statistics.sensitivity import Sensitivity, sensitivity

KEYS = (BATCH_SIZE, LEARNING_RATE)
FOLLOWERS = frozenset({*PERIODS, TARGET_RATE})  # keys that follow from updates per step: see `studies.design.Study.periods`

Settings = Mapping[str, str]  # keys in which arms differ, with values as JSON


class KeySensitivity(NamedTuple):
    """The loss at half and at twice the best value of a key, at the last horizon, with all other keys as in `rest`."""

    key: str
    rest: str
    found: Sensitivity


class KeyLaw(NamedTuple):
    """The best value of a key as a function of updates per step, on one environment."""

    key: str
    environment: str
    threshold: float  # return
    updates_per_step: tuple[float, ...]
    law: PowerLaw


def sensitivities(evidence: Evidence) -> list[KeySensitivity]:
    """The sensitivity to each key of which some arms have half or twice the best value, all else equal.

    Uses the seeds that are complete in all of these arms. Nothing if arms do not differ in the key.
    """
    arms = _differing_settings(evidence)
    found = []
    for key in KEYS:
        groups: dict[tuple[tuple[str, str], ...], list[str]] = defaultdict(list)
        for arm, settings in arms.items():
            groups[tuple(item for item in settings.items() if item[0] != key)].append(arm)
        for rest, names in groups.items():
            seeds = evidence.whole_seeds(names)
            if len(names) < 2 or len(seeds) < 2 or key not in arms[names[0]]:
                continue
            values = [float(arms[name][key]) for name in names]
            if len(set(values)) < len(values):  # arms that differ only in a key of FOLLOWERS
                continue
            scores = np.stack([evidence.scores(name, seeds)[-1] for name in names])
            words = " ".join(f"{name.rpartition('.')[2]}={value}" for name, value in rest)
            lost = sensitivity(values, scores)
            if lost.below is not None or lost.above is not None:
                found.append(KeySensitivity(key, words or "all else equal", lost))
    return found


def power_laws(evidence: Evidence) -> tuple[list[KeyLaw], list[str]]:
    """The law of each key and environment with a complete grid over updates per step, and reasons for failed fits.

    If several arms share a value of the key and of updates per step, the one whose median seed needs least data counts.
    """
    arms = _differing_settings(evidence)
    laws: list[KeyLaw] = []
    reasons: list[str] = []
    for key in KEYS:
        cells: dict[tuple[float, float], list[str]] = defaultdict(list)
        for arm, settings in arms.items():
            if key in settings and UPDATES_PER_STEP in settings:
                cells[float(settings[UPDATES_PER_STEP]), float(settings[key])].append(arm)
        x, values = (sorted({cell[axis] for cell in cells}) for axis in (0, 1))
        if min(len(x), len(values)) < 2 or len(cells) < len(x) * len(values):
            continue
        seeds = evidence.whole_seeds([arm for names in cells.values() for arm in names])
        for index, environment in enumerate(evidence.environments):
            try:
                laws.append(_law(evidence, key, index, cells, x, values, seeds))
            except ValueError as error:
                reasons.append(f"No fit of the best {key} on {environment}: {error}.")
    return laws, reasons


def _law(
    evidence: Evidence,
    key: str,
    environment: int,
    cells: Mapping[tuple[float, float], Sequence[str]],
    x: Sequence[float],
    values: Sequence[float],
    seeds: Sequence[int],
) -> KeyLaw:
    if len(seeds) < 2:
        raise ValueError("it needs two seeds with whole runs of all arms")
    curves = {arm: evidence.curves(arm, seeds) for names in cells.values() for arm in names}
    if not all(len(steps) for steps, _ in curves.values()):
        raise ValueError("it needs learning curves that have env steps in common")
    returns = {arm: one[:, environment] for arm, (_, one) in curves.items()}
    threshold = common_threshold([best for one in x for best in _best_runs(one, cells, returns)])
    needed = np.empty((len(x), len(values), len(seeds)))
    for row, updates in enumerate(x):
        for column, value in enumerate(values):
            by_arm = [_needed(curves[arm][0], returns[arm], threshold) for arm in cells[updates, value]]
            needed[row, column] = min(by_arm, key=lambda one: float(np.median(one)))
    return KeyLaw(key, evidence.environments[environment], threshold, tuple(x), fit_best(x, values, needed))


def _best_runs(
    updates: float, cells: Mapping[tuple[float, float], Sequence[str]], returns: Mapping[str, Floats]
) -> list[float]:
    """The highest return of each seed's monotone fit, for the best arm with this number of updates per step."""
    found = [
        [float(optimize.isotonic_regression(curve).x[-1]) for curve in returns[arm]]
        for cell, names in cells.items()
        if cell[0] == updates
        for arm in names
    ]
    return max(found, key=lambda one: float(np.median(one)))


def _needed(steps: Floats, returns: Floats, threshold: float) -> Floats:
    return np.array([data_to_threshold(steps, curve, threshold) for curve in returns])


def _differing_settings(evidence: Evidence) -> dict[str, Settings]:
    """By arm with a complete run: the settings in which arms differ, without those that follow from others."""
    own: dict[str, Settings] = {}
    for (arm, _, _), run in evidence.runs.items():
        own.setdefault(arm, own_settings(run))
    keys = sorted({key for one in own.values() for key in one} - FOLLOWERS)
    keys = [key for key in keys if len({one.get(key) for one in own.values()}) > 1]
    return {arm: {key: one.get(key, json.dumps(None)) for key in keys} for arm, one in own.items()}
