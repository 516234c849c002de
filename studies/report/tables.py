"""The report's tables, rounded for the page and unrounded for CSV."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields

import numpy as np

from studies.costs import ArmCost
from studies.evidence import Evidence
from studies.grids import KeyLaw, KeySensitivity
from studies.outcomes import Outcome
from studies.questions import own_settings
from studies.report.page import Table, interval, number
from studies.statistics.aggregates import iqm, rank_correlation
from studies.statistics.intervals import Interval, bootstrap

ARMS_TO_CORRELATE = 4  # a rank correlation of fewer arms is chance
COST_COLUMNS: tuple[tuple[str, Callable[[ArmCost], float | None]], ...] = (
    ("wall-clock s a run", lambda cost: cost.wall_seconds),
    ("updates/s", lambda cost: cost.updates_per_second),
    ("core s", lambda cost: cost.core_seconds),
    ("GPU s", lambda cost: cost.gpu_seconds),
    ("bytes moved", lambda cost: cost.bytes_moved),
    ("USD a run", lambda cost: cost.money),
    ("IQM per million steps", lambda cost: cost.score_per_million_steps),
    ("IQM per hour", lambda cost: cost.score_per_hour),
    ("IQM per USD", lambda cost: cost.score_per_money),
)


def results(outcome: Outcome) -> Table:
    """Each candidate beside the baseline, at each horizon."""
    rows = []
    for name, found in outcome.beside.items():
        for one in found:
            rows.append(
                (
                    name,
                    f"{one.horizon:,}",
                    number(one.candidate),
                    number(one.baseline),
                    _interval(one.difference),
                    _interval(one.improvement),
                    number(one.p_better, 2),
                    number(one.p_no_gain, 2),
                )
            )
        if name in outcome.results:
            result = outcome.results[name]
            p = (number(result.p_better, 2), number(result.p_no_gain, 2))
            rows.append((f"{name}: {result.answer}", "last two", "", "", "", "", *p))
    return Table(
        f"Against {outcome.comparison.baseline}; over the last two horizons p is corrected for the number of candidates",
        ("candidate", "env steps", "IQM", "baseline", "difference", "P(improvement)", "p better", "p no gain"),
        tuple(rows),
    )


def overview(evidence: Evidence) -> Table:
    """Every arm at every horizon, for a study without comparisons."""
    rows = []
    for arm in evidence.question.arms:
        seeds = evidence.whole_seeds([arm])
        if not seeds:
            continue
        for horizon, scores in zip(evidence.question.horizons, evidence.scores(arm, seeds), strict=True):
            between = bootstrap(iqm, scores) if len(seeds) > 1 else None
            rows.append((arm, f"{horizon:,}", str(len(seeds)), number(float(iqm(scores))), _interval(between)))
    return Table("IQM of each arm, on the common scale", ("arm", "env steps", "seeds", "IQM", "95 % interval"), tuple(rows))


def costs(found: Mapping[str, ArmCost]) -> Table:
    """The cost of a run of each arm, and its score."""
    rows = tuple((arm, *(number(value(cost)) for _, value in COST_COLUMNS)) for arm, cost in found.items())
    return Table("Means over an arm's runs", ("arm", *(name for name, _ in COST_COLUMNS)), rows)


def diagnostics(evidence: Evidence) -> tuple[Table, ...]:
    """Each arm's diagnostics, and their correlation with its score; nothing if no run has diagnostics."""
    names = sorted({name for run in evidence.runs.values() for name in run.diagnostics})
    if not names:
        return ()
    rows = []
    for arm in evidence.question.arms:
        own = [run.diagnostics for (name, _, _), run in evidence.runs.items() if name == arm]
        rows.append((arm, *(_spread([one[name] for one in own if name in one]) for name in names)))
    with_score = tuple((name, _interval(_with_score(evidence, name))) for name in names)
    columns = ("diagnostic", "rank correlation with the score (95 % interval)")
    together = [Table(f"Over arms, at the last horizon ({ARMS_TO_CORRELATE} arms or more)", columns, with_score)]
    return (
        Table("Diagnostics", ("arm", *names), tuple(rows)),
        *(together if len(evidence.question.arms) >= ARMS_TO_CORRELATE else []),
    )


def _with_score(evidence: Evidence, name: str) -> Interval | None:
    """The correlation over all arms and their complete seeds; None if a run lacks the diagnostic or there are too few."""
    arms, environments = evidence.question.arms, evidence.environments
    seeds = evidence.whole_seeds(arms)
    places = [[[evidence.runs[arm, place, seed] for place in environments] for arm in arms] for seed in seeds]
    if len(seeds) < 2 or any(name not in run.diagnostics for row in places for cell in row for run in cell):
        return None
    values = np.array([[np.mean([run.diagnostics[name] for run in cell]) for cell in row] for row in places])
    scores = np.stack([evidence.scores(arm, seeds)[-1].mean(axis=1) for arm in arms], axis=1)
    return bootstrap(rank_correlation, values, scores, paired=True)


def sensitivities(found: Sequence[KeySensitivity]) -> Table:
    """The loss at a value that is off by a factor of two."""
    rows = tuple(
        (one.key, one.rest, number(one.found.best), _interval(one.found.below), _interval(one.found.above)) for one in found
    )
    return Table("Sensitivity at the last horizon", ("key", "where", "best", "lost at half of it", "lost at twice"), rows)


def laws(found: Sequence[KeyLaw]) -> Table:
    """The best value as a function of updates per step."""
    rows = tuple(
        (
            one.key,
            one.environment,
            "; ".join(f"{number(best)} at {number(x)}" for x, best in zip(one.updates_per_step, one.law.best, strict=True)),
            _interval(one.law.exponent),
            _interval(one.law.coefficient),
            number(one.threshold),
        )
        for one in found
    )
    columns = ("key", "environment", "best at updates per step", "exponent", "at 1 update per step", "return reached")
    return Table("best = coefficient x (updates per step) ^ exponent", columns, rows)


def scales(evidence: Evidence) -> Table:
    """The returns that count as 0 and as 1."""
    rows = tuple((name, number(one.low, 4), number(one.high, 4), one.source) for name, one in evidence.scales.items())
    return Table("The common scale", ("environment", "return that is 0", "return that is 1", "where from"), rows)


def settings(evidence: Evidence) -> tuple[Table, ...]:
    """The settings in which arms differ, and those that all share."""
    first = {
        arm: next((run for (name, _, _), run in evidence.runs.items() if name == arm), None) for arm in evidence.question.arms
    }
    own = {arm: own_settings(run) for arm, run in first.items() if run is not None}
    keys = sorted({key for one in own.values() for key in one})
    differing = [key for key in keys if len({one.get(key) for one in own.values()}) > 1]
    studied = evidence.question.studied
    apart = tuple(
        (f"{key}{'' if key in studied else ' (not studied)'}", *(one.get(key, "-") for one in own.values()))
        for key in differing
    )
    same = tuple((key, next(iter(own.values())).get(key, "-")) for key in keys if key not in differing)
    found = [Table("What arms differ in", ("key", *own), apart)] if apart else []
    return (*found, Table("The same in all arms", ("key", "value"), same, folded=True))


def runs(evidence: Evidence) -> Table:
    """Every run, including failed and tuning runs."""
    last = evidence.question.horizons[-1] if evidence.question.horizons else 0
    rows = tuple(
        (
            one.arm,
            one.environment,
            str(one.seed),
            one.purpose if not one.variant else f"{one.purpose} {one.variant}",
            number(one.scores.get(last)),
            f"{one.counts.updates:,}",
            number(one.counts.samples_per_insert),
            number(one.costs.wall_seconds),
            one.status if not one.reason else f"{one.status}: {one.reason}",
            one.config_hash,
            one.commit[:12],
        )
        for one in evidence.records
    )
    columns = (
        "arm",
        "environment",
        "seed",
        "for",
        f"score at {last:,}",
        "updates",
        "samples per insert",
        "s",
        "status",
        "config",
        "commit",
    )
    return Table(f"{len(rows)} runs", columns, rows, folded=True)


def runs_csv(evidence: Evidence) -> Table:
    """One row per run, with a column for every setting."""
    horizons, keys = evidence.question.horizons, sorted({key for one in evidence.records for key in one.settings})
    plain = (
        "study",
        "arm",
        "environment",
        "seed",
        "purpose",
        "variant",
        "status",
        "reason",
        "config_hash",
        "version",
        "commit",
        "hardware",
    )
    counts, costs_ = (
        ("env_steps", "updates", "samples_trained", "samples_per_insert"),
        ("wall_seconds", "core_seconds", "gpu_seconds", "bytes_moved"),
    )
    rows = tuple(
        (
            *(str(getattr(one, name)) for name in plain),
            *(_exact(one.scores.get(horizon)) for horizon in horizons),
            *(_exact(getattr(one.counts, name)) for name in counts),
            *(_exact(getattr(one.costs, name)) for name in costs_),
            *(json.dumps(one.settings.get(key)) for key in keys),
        )
        for one in evidence.records
    )
    return Table("runs", (*plain, *(f"score_{horizon}" for horizon in horizons), *counts, *costs_, *keys), rows)


def results_csv(outcomes: Sequence[Outcome]) -> Table:
    """One row for each comparison, candidate and horizon."""
    columns = (
        *(
            "baseline",
            "candidate",
            "env_steps",
            "seeds",
            "iqm_candidate",
            "iqm_baseline",
            "difference",
            "difference_low",
            "difference_high",
        ),
        *("probability_of_improvement", "improvement_low", "improvement_high", "p_better", "p_no_gain", "answer"),
    )
    rows = tuple(
        (
            outcome.comparison.baseline,
            name,
            str(one.horizon),
            str(len(outcome.seeds)),
            *map(_exact, (one.candidate, one.baseline, *(one.difference or (None,) * 3), *(one.improvement or (None,) * 3))),
            *map(_exact, (one.p_better, one.p_no_gain)),
            outcome.results[name].answer if name in outcome.results else "not shown",
        )
        for outcome in outcomes
        for name, found in outcome.beside.items()
        for one in found
    )
    return Table("results", columns, rows)


def curves_csv(evidence: Evidence) -> Table:
    """Every point of every whole run's learning curve."""
    rows = tuple(
        (arm, environment, str(seed), str(step), _exact(value))
        for (arm, environment, seed), run in evidence.runs.items()
        for step, value in run.returns
    )
    return Table("curves", ("arm", "environment", "seed", "env_steps", "mean_return"), rows)


def costs_csv(found: Mapping[str, ArmCost]) -> Table:
    """One row per arm."""
    names = [one.name for one in fields(ArmCost)]
    rows = tuple((arm, *(_exact(getattr(cost, name)) for name in names)) for arm, cost in found.items())
    return Table("costs", ("arm", *names), rows)


def _interval(one: Interval | None) -> str:
    return "-" if one is None else f"{number(one.estimate)} ({interval(one.low, one.high)})"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=min(1, len(values) - 1)))
    # The deviation of equal values is only rounding.
    return number(mean) + (f" ± {number(deviation, 2)}" if deviation > 1e-12 * abs(mean) else "")


def _exact(value: float | None) -> str:
    return "" if value is None else repr(value)
