"""Which value an arm's tuning chooses, and its cost: the same number of runs for every arm.

On each environment, a variant's score is the mean over the tuning seeds at the last horizon. Environments have different
scales, so variants are ranked on each one. The variant with the best mean rank is chosen; among equals, the one nearest to the
arm's own value.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from sbrl.storage.atomic import replace_text
from studies.arms import Arm, Variant, tuning_runs, variants_of
from studies.design import Study
from studies.records import RunRecord

TUNING = "tuning.json"


@dataclass(frozen=True)
class Choice:
    """The result of an arm's tuning."""

    arm: str
    chosen: str | None  # a variant's name; None if every variant has a failed run
    at_edge: bool  # whether the chosen value is the lowest or highest one tried: a better one may lie beyond
    scores: dict[str, dict[str, float | None]]  # variant -> environment -> mean over seeds; None if one of its runs failed
    runs: int  # the budget, in runs and in env steps
    env_steps: int


def choose(study: Study, arm: Arm, records: Sequence[RunRecord]) -> Choice:
    """
    Args:
        records: all tuning runs of the arm, including failed ones. Other records are ignored.
    """
    variants = variants_of(study, arm)
    scores = {
        variant.name: {name: _mean_score(study, variant, name, arm, records) for name in study.tuned_on} for variant in variants
    }
    usable = [variant for variant in variants if None not in scores[variant.name].values()]
    chosen = _best(study, usable, scores)
    values = [variant.value for variant in variants]
    runs = len(variants) * len(study.tuned_on) * len(study.seeds.for_tuning)
    return Choice(
        arm=arm.name,
        chosen=chosen.name if chosen else None,
        at_edge=chosen is not None and chosen.value in (min(values), max(values)),
        scores=scores,
        runs=runs,
        env_steps=runs * study.env_steps,
    )


def chosen_variants(study: Study, arms: Sequence[Arm], choices: Mapping[str, Choice]) -> dict[str, Variant]:
    """By arm, the chosen variant, if there is one."""
    return {
        arm.name: variant for arm in arms for variant in variants_of(study, arm) if variant.name == choices[arm.name].chosen
    }


def untuned_arms(study: Study, arms: Sequence[Arm], records: Sequence[RunRecord]) -> tuple[str, ...]:
    """Arms whose tuning has missing runs or no result, or whose tests have another value than it chose; none without tuning."""
    if study.tuning is None:
        return ()
    tried = {record.folder for record in records if record.purpose == "tune"}
    found = []
    for arm in arms:
        choice, values = choose(study, arm, records), {variant.name: variant.value for variant in variants_of(study, arm)}
        tests = [record for record in records if record.purpose == "test" and record.arm == arm.name]
        if (
            choice.chosen is None
            or any(run.folder not in tried for run in tuning_runs(study, [arm]))
            or any(record.settings.get(study.tuning.key) != values[choice.chosen] for record in tests)
        ):
            found.append(arm.name)
    return tuple(found)


def write_choices(results: Path, choices: Mapping[str, Choice]) -> None:
    """Writes tuning.json into a folder of results. Raises RunError if the file system refuses."""
    tree = {name: asdict(choice) for name, choice in choices.items()}
    replace_text(results / TUNING, json.dumps(tree, indent=1, allow_nan=False) + "\n")


def _mean_score(study: Study, variant: Variant, environment: str, arm: Arm, records: Sequence[RunRecord]) -> float | None:
    wanted = (arm.name, variant.name, environment)
    runs = [one for one in records if one.purpose == "tune" and (one.arm, one.variant, one.environment) == wanted]
    if any(study.env_steps not in run.scores for run in runs) or {run.seed for run in runs} != set(study.seeds.for_tuning):
        return None
    return math.fsum(run.scores[study.env_steps] for run in runs) / len(runs)


def _best(study: Study, usable: Sequence[Variant], scores: Mapping[str, Mapping[str, float | None]]) -> Variant | None:
    if not usable:
        return None
    table = [[scores[variant.name][environment] for environment in study.tuned_on] for variant in usable]
    ranks = rankdata(-np.array(table, np.float64), axis=0).mean(axis=1)  # 1: the highest score
    return min(zip(ranks, usable, strict=True), key=lambda one: (one[0], abs(math.log(one[1].factor))))[1]
