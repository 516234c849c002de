"""Chooses the figures of a report."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from studies.evidence import Evidence
from studies.outcomes import Outcome
from studies.published import published_curve
from studies.report import figures
from studies.report.page import Picture, number
from studies.statistics.aggregates import Floats, iqm
from studies.statistics.intervals import Interval, bootstrap, curve_intervals, iqm_difference, profile_intervals

CURVE_RESAMPLES = 500
THRESHOLDS = 41
MOST_ENVIRONMENTS = 6  # one figure each; if there are more, only the table shows them
MOST_ARMS = 12  # with more, the names leave no room for the curves


def scaled(evidence: Evidence, returns: Floats) -> Floats:
    """Returns float64[S, E, T] on the environments' scales."""
    return np.stack(
        [evidence.scales[name].apply(returns[:, index]) for index, name in enumerate(evidence.environments)], axis=1
    )


def of_comparison(evidence: Evidence, outcome: Outcome) -> tuple[Picture, ...]:
    """Curves, then profiles and differences, which need two seeds."""
    comparison = outcome.comparison
    arms = (comparison.baseline, *comparison.candidates)
    found = list(_curves(evidence, arms, outcome.seeds, _slug(comparison.baseline)))
    if len(outcome.seeds) > 1:
        found.append(_profiles(evidence, arms, outcome.seeds, _slug(comparison.baseline)))
        found.append(_differences(evidence, outcome))
    return tuple(found)


def of_arms(evidence: Evidence) -> tuple[Picture, ...]:
    """Curves of all arms, for a study without comparisons; nothing for more arms than a picture can tell apart."""
    arms = tuple(arm for arm in evidence.question.arms if evidence.whole_seeds([arm]))
    if len(arms) > MOST_ARMS:
        return ()
    seeds = evidence.whole_seeds(arms)
    return _curves(evidence, arms, seeds, "arms") if seeds else ()


def _curves(evidence: Evidence, arms: Sequence[str], seeds: Sequence[int], slug: str) -> tuple[Picture, ...]:
    found = []
    table = {arm: evidence.smooth_curves(arm, seeds) for arm in arms}
    steps = table[arms[0]][0]
    if not len(steps):
        return ()
    if len(evidence.environments) > 1:
        points = {arm: _points(scaled(evidence, returns)) for arm, (_, returns) in table.items()}
        found.append(_curve(f"curve-{slug}", "All environments", steps, points, "IQM, common scale", len(seeds), None))
    for index, name in enumerate(evidence.environments[:MOST_ENVIRONMENTS]):
        points = {arm: _points(returns[:, index : index + 1]) for arm, (_, returns) in table.items()}
        published = published_curve(evidence.runs[arms[0], name, seeds[0]])
        found.append(_curve(f"curve-{slug}-{_slug(name)}", name, steps, points, "training return (IQM)", len(seeds), published))
    return tuple(found)


def _points(returns: Floats) -> Sequence[Interval] | Floats:
    return curve_intervals(returns, CURVE_RESAMPLES) if len(returns) > 1 else iqm(np.moveaxis(returns, 2, 0))


def _curve(
    name: str,
    title: str,
    steps: Floats,
    arms: dict[str, Sequence[Interval] | Floats],
    ylabel: str,
    seeds: int,
    published: tuple[str, Floats, Floats] | None,
) -> Picture:
    ends = "; ".join(f"{arm} ends at {number(float(np.array(points)[-1].flat[0]))}" for arm, points in arms.items())
    band = f"Bands: 95 % intervals over {seeds} seeds." if seeds > 1 else "One seed: no interval."
    if published is not None and published[1][0] > steps[-1]:  # the published curve begins after ours ends
        published = None
    reference = f" Dotted with squares: {published[0]}, batch 32, mean of 5 seeds." if published else ""
    return figures.draw(
        name,
        f"Learning curve: {title}",
        f"{ylabel[0].upper()}{ylabel[1:]} against env steps, up to {steps[-1]:,.0f}: means over a tenth of a run. "
        f"{ends}. {band}{reference}",
        lambda axes: figures.curves(
            axes, {arm: (steps, points) for arm, points in arms.items()}, "env steps", ylabel, published
        ),
    )


def over_time(evidence: Evidence, arms: Sequence[str], hours: Mapping[str, float]) -> tuple[Picture, ...]:
    """The IQM on the common scale against wall-clock time; nothing if an arm's time is not known.

    Args:
        hours: of a run up to the last horizon, by arm.
    """
    seeds = evidence.whole_seeds(arms)
    if not seeds or any(arm not in hours for arm in arms):
        return ()
    last = evidence.question.horizons[-1]
    points = {}
    for arm in arms:
        steps, returns = evidence.smooth_curves(arm, seeds)
        until = steps <= last
        if not until.any():
            return ()
        points[arm] = (steps[until] / last * hours[arm], _points(scaled(evidence, returns)[:, :, until]))
    ends = "; ".join(f"{arm} takes {number(hours[arm])} h" for arm in arms)
    return (
        figures.draw(
            f"hours-{_slug(arms[0])}",
            "Return against wall-clock time",
            f"IQM on the common scale against hours of a run up to env step {last:,}, taken to pass evenly: {ends}.",
            lambda axes: figures.curves(axes, points, "hours", "IQM, common scale"),
        ),
    )


def _profiles(evidence: Evidence, arms: Sequence[str], seeds: Sequence[int], slug: str) -> Picture:
    scores = {arm: evidence.scores(arm, seeds)[-1] for arm in arms}
    everything = np.concatenate([one.ravel() for one in scores.values()])
    low, high = float(everything.min()), float(everything.max())
    thresholds = np.linspace(low, high if high > low else low + 1, THRESHOLDS)
    points = {arm: profile_intervals(one, thresholds, CURVE_RESAMPLES) for arm, one in scores.items()}
    middle = thresholds[THRESHOLDS // 2]
    shares = "; ".join(f"{arm} {100 * points[arm][THRESHOLDS // 2].estimate:.0f} %" for arm in arms)
    return figures.draw(
        f"profile-{slug}",
        "Performance profile at the last horizon",
        f"Share of runs above each score, on the common scale. Above {number(float(middle))}: {shares}. Bands: 95 % intervals.",
        lambda axes: figures.profiles(axes, thresholds, points),
    )


def _differences(evidence: Evidence, outcome: Outcome) -> Picture:
    baseline = evidence.scores(outcome.comparison.baseline, outcome.seeds)[-1]
    rows = []
    for name in outcome.comparison.candidates:
        last = outcome.beside[name][-1].difference
        if last is not None and len(evidence.environments) > 1:
            rows.append((f"{name}, all", last))
        own = evidence.scores(name, outcome.seeds)[-1]
        for index, environment in enumerate(evidence.environments):
            x, y = own[:, index : index + 1], baseline[:, index : index + 1]
            rows.append((f"{name}, {re.split('[:/]', environment)[-1]}", bootstrap(iqm_difference, x, y, paired=True)))
    words = "; ".join(f"{name} {number(one.estimate)} ({number(one.low)} to {number(one.high)})" for name, one in rows)
    return figures.draw(
        f"differences-{_slug(outcome.comparison.baseline)}",
        f"Difference from {outcome.comparison.baseline} at the last horizon",
        f"IQM minus that of {outcome.comparison.baseline}, paired by seed, with 95 % intervals: {words}.",
        lambda axes: figures.differences(axes, rows, "difference of IQMs"),
        height=0.9 + 0.28 * len(rows),
    )


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
