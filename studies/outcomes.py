"""A comparison's answer: applies the verdict's rule to the evidence, and gives reasons if it is withheld."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from studies.design import Comparison
from studies.evidence import Evidence
from studies.statistics.aggregates import Floats, iqm, probability_of_improvement
from studies.statistics.intervals import Interval, bootstrap, iqm_difference
from studies.statistics.power import detectable_difference, seeds_needed
from studies.verdict import LAST_HORIZONS, Answer, CandidateResult, Rule, best_adopted, judge, overall


@dataclass(frozen=True)
class Beside:
    """A candidate beside the baseline at one horizon; all values but p are over every complete seed."""

    horizon: int
    candidate: float  # IQM on the common scale
    baseline: float
    difference: Interval | None  # of IQMs, paired by seed; None with fewer than two seeds
    improvement: Interval | None  # probability of improvement
    p_better: float | None  # None if no look was reached
    p_no_gain: float | None


@dataclass(frozen=True)
class Outcome:
    """The outcome of a comparison."""

    comparison: Comparison
    answer: Answer
    adopted: str | None
    reasons: tuple[str, ...]  # for not deciding
    seeds: tuple[int, ...]  # the seeds that are complete in all arms of the comparison
    looked_at: int  # number of seeds at the last look reached; 0 if none was
    looks: tuple[int, ...]
    results: Mapping[str, CandidateResult]  # empty if no look was reached
    beside: Mapping[str, tuple[Beside, ...]]  # by candidate, one per horizon
    deviation: float | None  # of a score over seeds, pooled over arms and environments, at the last horizon
    detectable: float | None  # smallest difference that the planned seeds show with a power of 0.8
    seeds_wanted: int | None  # that would show the foremost candidate's observed difference; None: too many, or no difference

    @property
    def foremost(self) -> str:
        """The candidate to adopt, else the one with the highest IQM at the last horizon."""
        return self.adopted or _foremost(self.beside)


def answer(evidence: Evidence, comparison: Comparison) -> Outcome:
    """Applies the rule of `studies.verdict` to one comparison."""
    question = evidence.question
    arms = (comparison.baseline, *comparison.candidates)
    seeds = evidence.whole_seeds(arms)
    looks = comparison.looks or (len(question.seeds),)
    in_order = next((n for n, seed in enumerate(question.seeds) if seed not in seeds), len(question.seeds))
    looked_at = max((look for look in looks if look <= in_order), default=0)
    scores = {arm: evidence.scores(arm, seeds) for arm in arms}
    reasons = [finding.text for finding in evidence.findings if finding.withholds or comparison.baseline in finding.arms]
    if not looked_at:
        reasons.append(
            f"The first look is at {looks[0]} seeds, and {in_order} have whole runs of all arms, counted in the planned order."
        )
    results: Mapping[str, CandidateResult] = {}
    if looked_at and len(question.horizons) >= LAST_HORIZONS and looked_at > 1:
        rule = Rule(planned_seeds=looks[-1], looks=looks, smallest_gain=comparison.smallest_gain)
        candidates = {arm: scores[arm][:, :in_order] for arm in comparison.candidates}
        results = judge(scores[comparison.baseline][:, :in_order], candidates, rule)
    doubted = {name: [finding.text for finding in evidence.findings if name in finding.arms] for name in comparison.candidates}
    results = {
        name: replace(result, answer="not shown") if reasons or doubted[name] else result for name, result in results.items()
    }
    reasons += [text for name in comparison.candidates for text in doubted[name]]
    if not question.tuned and any(result.answer == "adopt" for result in results.values()):
        reasons.append(
            "The baseline's learning rate was not tuned, and a mis-set one looks like an effect of the batch: tune both arms."
        )
        results = {
            name: replace(result, answer="not shown") if result.answer == "adopt" else result
            for name, result in results.items()
        }
    deviation = _deviation(scores, seeds)
    environments, number = len(question.environments), len(comparison.candidates)
    beside = {name: _beside(evidence, scores[name], scores[arms[0]], results.get(name)) for name in comparison.candidates}
    wanted = None
    if deviation and comparison.candidates:
        last = beside[_foremost(beside)][-1]
        wanted = seeds_needed(last.candidate - last.baseline, deviation, environments, number)
    planned = max(len(question.seeds), 2)
    return Outcome(
        comparison=comparison,
        answer=overall(results),
        adopted=best_adopted(results),
        reasons=tuple(dict.fromkeys(reasons)),
        seeds=seeds,
        looked_at=looked_at,
        looks=looks,
        results=results,
        beside=beside,
        deviation=deviation,
        detectable=detectable_difference(deviation, planned, environments, number) if deviation else None,
        seeds_wanted=wanted,
    )


def _foremost(beside: Mapping[str, tuple[Beside, ...]]) -> str:
    return max(beside, key=lambda name: beside[name][-1].candidate if beside[name] else 0.0)


def _beside(evidence: Evidence, candidate: Floats, baseline: Floats, result: CandidateResult | None) -> tuple[Beside, ...]:
    found = []
    for index, horizon in enumerate(evidence.question.horizons):
        x, y = candidate[index], baseline[index]
        if not len(x):
            continue
        tested = result.horizons[index] if result is not None else None
        several = len(x) > 1
        found.append(
            Beside(
                horizon=horizon,
                candidate=float(iqm(x)),
                baseline=float(iqm(y)),
                difference=bootstrap(iqm_difference, x, y, paired=True) if several else None,
                improvement=bootstrap(probability_of_improvement, x, y) if several else None,
                p_better=tested.p_better if tested else None,
                p_no_gain=tested.p_no_gain if tested else None,
            )
        )
    return tuple(found)


def _deviation(scores: Mapping[str, Floats], seeds: tuple[int, ...]) -> float | None:
    if len(seeds) < 2 or not all(len(one) for one in scores.values()):
        return None
    variances = [one[-1].var(axis=0, ddof=1) for one in scores.values()]
    found = float(np.sqrt(np.mean(variances)))
    return found if found > 0 else None
