"""The verdict by a written rule: adopt, keep the larger batch, or not shown. Its error rates: `scripts/verdict_rates.py`.

For each candidate and each of the last two horizons, the group-sequential permutation test of `studies.statistics.sequential`
asks two questions about the difference of IQMs, each one-sided at alpha = 5 %:

- better: is the candidate's IQM higher than the baseline's?
- no gain: is it lower than the baseline's plus the smallest gain worth having?

The answer is yes only if it is yes at both horizons: the larger of the two p-values counts. Holm's procedure corrects it for
the number of candidates.

    keep       no gain, whatever else
    adopt      better, and at one of the last two horizons the interval of the difference (paired by seed) is above 0
    not shown  neither

An interval that reaches down to 0 at two horizons in a row is also the rule for going back to the larger batch. Two horizons
need no correction for their number, because both must agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from studies.statistics.aggregates import Floats, iqm
from studies.statistics.intervals import RESAMPLES, Interval, bootstrap, iqm_difference
from studies.statistics.sequential import PERMUTATIONS, holm, permuted_paths, sequential_p

Answer = Literal["adopt", "keep", "not shown"]

ALPHA = 0.05
MIN_SEEDS = 5  # with fewer, a few lucky runs can decide, and intervals are far too narrow
LAST_HORIZONS = 2
SMALLEST_GAIN = 0.05  # as a share of the baseline's IQM
LEVELS = tuple(np.geomspace(0.001, 0.5, 60).round(4).tolist())  # the possible p-values


@dataclass(frozen=True)
class Rule:
    """The decisions made before the first run."""

    planned_seeds: int
    looks: tuple[int, ...]  # numbers of seeds at which the comparison may be decided, rising; the last is planned_seeds
    smallest_gain: float = SMALLEST_GAIN  # smallest gain worth having, as a share of the baseline's IQM
    alpha: float = ALPHA


@dataclass(frozen=True)
class HorizonResult:
    """A candidate beside the baseline at one horizon, on the environments' common scale."""

    candidate: float  # IQM
    baseline: float
    difference: Interval  # of IQMs, paired by seed
    p_better: float  # from the sequential test, one-sided
    p_no_gain: float


@dataclass(frozen=True)
class CandidateResult:
    """A candidate's answer."""

    answer: Answer
    p_better: float  # over the last two horizons, corrected for the number of candidates
    p_no_gain: float
    horizons: tuple[HorizonResult, ...]  # all of them, in order


def judge(
    baseline: Floats,
    candidates: Mapping[str, Floats],
    rule: Rule,
    permutations: int = PERMUTATIONS,
    levels: Sequence[float] = LEVELS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, CandidateResult]:
    """Each candidate's answer.

    Args:
        baseline, candidates: float64[H, S, E]: scores on the environments' common scale, at rising horizons, with seeds in the
            order in which they were added.
        levels: the possible p-values; alpha / 1, alpha / 2, ... are always added.
        seed: of the permutations; the same at every look of a study.

    Raises:
        ValueError: no look has been reached, there is only one horizon, or arms have scores of different shapes.
    """
    if any(scores.shape != baseline.shape for scores in candidates.values()):
        raise ValueError("all arms need scores of the same horizons, seeds and environments")
    looks = [look for look in rule.looks if look <= baseline.shape[1]]
    if not looks or len(baseline) < LAST_HORIZONS:
        raise ValueError("a verdict needs two horizons or more, and as many seeds as the first look")
    all_levels = sorted({*levels, *(rule.alpha / number for number in range(1, len(candidates) + 1))})
    shares = [look / rule.planned_seeds for look in looks]

    def p_value(better: Floats, worse: Floats) -> float:
        paths = permuted_paths(better, worse, looks, permutations=permutations, seed=seed, planned=rule.looks)
        return sequential_p(paths, shares, all_levels)

    seeds = looks[-1]
    found = {}
    for name, scores in candidates.items():
        horizons = []
        for candidate, reference in zip(scores[:, :seeds], baseline[:, :seeds], strict=True):
            smallest = rule.smallest_gain * abs(float(iqm(reference)))
            horizons.append(
                HorizonResult(
                    candidate=float(iqm(candidate)),
                    baseline=float(iqm(reference)),
                    difference=bootstrap(iqm_difference, candidate, reference, paired=True, resamples=resamples),
                    p_better=p_value(candidate, reference),
                    p_no_gain=p_value(reference + smallest, candidate),
                )
            )
        found[name] = tuple(horizons)
    better, no_gain = (
        holm([max(getattr(one, question) for one in horizons[-LAST_HORIZONS:]) for horizons in found.values()])
        for question in ("p_better", "p_no_gain")
    )
    return {
        name: CandidateResult(_answer(p_better, p_no_gain, horizons, rule.alpha), p_better, p_no_gain, horizons)
        for p_better, p_no_gain, (name, horizons) in zip(better, no_gain, found.items(), strict=True)
    }


def should_go_back(differences: Sequence[Interval]) -> bool:
    """Whether a user who adopted the candidate should go back to the larger batch.

    Args:
        differences: of IQMs, candidate minus baseline, at each checkpoint in order.
    """
    last = differences[-LAST_HORIZONS:]
    return len(last) == LAST_HORIZONS and all(one.low <= 0 for one in last)


def best_adopted(results: Mapping[str, CandidateResult]) -> str | None:
    """Of the candidates to adopt, the one with the highest IQM at the last horizon; None if there are none."""
    adopted = {name: result.horizons[-1].candidate for name, result in results.items() if result.answer == "adopt"}
    return max(adopted, key=lambda name: adopted[name]) if adopted else None


def overall(results: Mapping[str, CandidateResult]) -> Answer:
    """The verdict over all candidates: adopt if one is to be adopted, keep if none has a gain, else not shown."""
    answers = [result.answer for result in results.values()]
    if "adopt" in answers:
        return "adopt"
    return "keep" if answers and set(answers) == {"keep"} else "not shown"


def _answer(p_better: float, p_no_gain: float, horizons: Sequence[HorizonResult], alpha: float) -> Answer:
    # Holm's procedure multiplies levels such as alpha / 3 by 3, which can round up.
    bound = alpha * (1 + 1e-9)
    if p_no_gain <= bound:
        return "keep"
    if p_better <= bound and not should_go_back([one.difference for one in horizons]):
        return "adopt"
    return "not shown"
