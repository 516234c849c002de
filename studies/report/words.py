"""The verdict in three sentences, and the other texts of a report."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from studies.costs import ArmCost
from studies.evidence import SMOOTH, Evidence
from studies.outcomes import Beside, Outcome
from studies.records import BINS
from studies.report.page import Verdict, interval, listed, number
from studies.verdict import ALPHA, LAST_HORIZONS, MIN_SEEDS


def verdict_of(outcome: Outcome, costs: Mapping[str, ArmCost], reaches: Mapping[str, float | None]) -> Verdict:
    """Args: reaches: by arm, the share of the steps at break-even; None if there is none, see `METHODS`."""
    baseline = outcome.comparison.baseline
    shown = outcome.foremost
    excluded = tuple(name for name, result in outcome.results.items() if result.answer == "keep")
    if outcome.answer == "adopt":
        title = f"Adopt {shown}"
        first = f"Adopt {shown} in place of {baseline}: it is better at both of the last two horizons."
    elif outcome.answer == "keep":
        title = f"Keep {baseline}"
        gain = f"{100 * outcome.comparison.smallest_gain:g} %"
        first = (
            f"Keep {baseline}: a gain of {gain} or more by {_candidates(outcome)} is excluded at both of the last two horizons."
        )
    else:
        title = f"Not shown: keep {baseline} for now"
        first = f"It is not shown that {_candidates(outcome, excluded)} should take the place of {baseline}. {_why(outcome)}"
        if excluded:
            first += f" A gain of that size by {listed(excluded)} is excluded."
    return Verdict(outcome.answer, title, (first, _evidence(outcome, shown), _next(outcome, shown, costs, reaches)))


def limits(evidence: Evidence, outcomes: tuple[Outcome, ...]) -> tuple[str, ...]:
    """The limits of the evidence."""
    question = evidence.question
    found = [
        f"It is about {listed(question.environments)} and runs of {question.horizons[-1]:,} env steps: on another task, or in "
        f"a longer run, another setting may be best.",
        "An interval says how much other seeds would change the result. It knows nothing of other settings, code or machines, "
        "and with fewer than ten seeds it is too narrow.",
        "What is not shown is not excluded: a difference smaller than the study can detect may be there.",
        "It does not explain why an arm is better: diagnostics correlate with returns, which shows no cause.",
    ]
    for outcome in outcomes:
        if outcome.detectable is not None and outcome.deviation is not None:
            found.append(
                f"With {len(question.seeds)} seeds, a difference of {number(outcome.detectable)} on the common scale would "
                f"be shown at one horizon in 80 % of studies like this one, and at both, as a verdict needs it, in fewer; a "
                f"score's standard deviation over seeds is {number(outcome.deviation)}."
            )
    if not question.planned:
        found.append(
            "Nobody planned these runs together: which of them are here, and how many, may depend on how they came out."
        )
    if not question.tuned:
        found.append(
            "The learning rate was not tuned for each arm, so a difference may be the learning rate's as well as the batch's."
        )
    return tuple(found)


def checklist(outcomes: tuple[Outcome, ...]) -> tuple[str, ...]:
    """The steps to take before a pilot moves to production."""
    changed = [outcome for outcome in outcomes if outcome.answer == "adopt"]
    if not changed:
        return (
            "Keep the baseline's settings in production.",
            "If more seeds are run, write their number and looks into the study file first.",
        )
    return (
        "Run the adopted settings once on the production task, hardware and length, with two checkpoints at least.",
        "Compare with the larger batch, its learning rate tuned, at each checkpoint: five seeds or more of each.",
        "Check samples per insert and updates per step in summary.json: they are what the settings say.",
        "Check that the learner is not starved, and what an hour costs: `sbrl doctor`, the Learner dashboard.",
        "Write down who goes back, how, and at which checkpoints it is decided.",
    )


GOING_BACK = (
    f"Go back to the larger batch if at {LAST_HORIZONS} checkpoints in a row the lower end of the interval of the difference "
    f"of IQMs against it, with its learning rate tuned, is at or below zero."
)

LEAST_FOR_A_SHARE = 0.05  # on the common scale: of a baseline near 0 any gain is hundreds of percent

METHODS = (
    "The unit of replication is the seed, never the episode. A score is the mean return of the last 100 training episodes by a "
    "horizon, or of the evaluation there if the study says so. IQM: interquartile mean over all runs of all environments, "
    "each on its scale (Agarwal et al. 2021).",
    "Intervals: 95 %, percentiles of 2,000 stratified bootstrap resamples of seeds within environments (500 for curves); "
    "differences are paired by seed. Probability of improvement: Mann-Whitney's U over the product of the numbers of runs, "
    "mean over environments.",
    f"Verdict: at each of the last {LAST_HORIZONS} horizons a one-sided group-sequential permutation test of the difference of "
    f"IQMs (AdaStop, Mathieu et al. 2023), alpha {100 * ALPHA:g} % spent in proportion to the planned seeds at each look; both "
    f"horizons have to agree; Holm's correction for the number of candidates; {MIN_SEEDS} seeds or more. Adopt: better, and "
    f"the interval does not reach zero at both horizons. Keep: the smallest gain worth having is excluded. Not shown: neither, "
    f"or the evidence is in doubt. A null effect is adopted in 5 % of studies at most (docs/report.md has the simulation).",
    "Break-even: where the smoothed curve of a candidate first reaches the end of the baseline's. A smoothed curve is the IQM "
    f"of training returns on the common scale, each the mean of {SMOOTH} of a curve's {BINS} points, made monotone by isotonic "
    "regression. It is not the score, so its end differs from the score. There is no break-even if curves are missing or "
    "damaged, or the candidate's score at the last horizon is below the baseline's. Costs are those up to the last horizon; "
    "of a longer run, in proportion to steps.",
)


def _candidates(outcome: Outcome, besides: Collection[str] = ()) -> str:
    names = tuple(name for name in outcome.comparison.candidates if name not in besides)
    return listed(names) if len(names) <= 3 else f"any of {len(names)} candidates"


def _why(outcome: Outcome) -> str:
    if outcome.reasons:
        return outcome.reasons[0]
    return f"The tests neither show a gain nor exclude one of {100 * outcome.comparison.smallest_gain:g} %."


def _evidence(outcome: Outcome, shown: str) -> str:
    found = outcome.beside[shown][-LAST_HORIZONS:]
    if not found:
        return "No seed has whole runs of all arms."
    words = [f"at {one.horizon:,} env steps its IQM is {_gain(one)}" for one in reversed(found)]
    result = outcome.results.get(shown)
    p = f" (p = {number(result.p_better, 2)} for better, corrected)" if result is not None else ""
    seeds = f"{len(outcome.seeds)} seed{'s' if len(outcome.seeds) > 1 else ''}"
    return f"{shown}, over {seeds}: {'; '.join(words)}{p}."


def _gain(one: Beside) -> str:
    share = f" ({100 * (one.candidate / one.baseline - 1):+.0f} %)" if one.baseline >= LEAST_FOR_A_SHARE else ""
    between = f", difference {interval(one.difference.low, one.difference.high)}" if one.difference else ""
    return f"{number(one.candidate)} against {number(one.baseline)}{share}{between}"


def _next(outcome: Outcome, shown: str, costs: Mapping[str, ArmCost], reaches: Mapping[str, float | None]) -> str:
    own, other = costs[shown], costs[outcome.comparison.baseline]
    cost = ""
    if own.wall_seconds is not None and other.wall_seconds:
        cost = f"A run of {shown} takes {own.wall_seconds / other.wall_seconds:.2f} times the baseline's time for as many steps"
        reached = reaches.get(shown)
        if reached is not None:
            cost += f", and its smoothed curve reaches the end of the baseline's after {100 * reached:.0f} % of them"
        cost += ". "
    if outcome.answer == "adopt":
        return f"{cost}{GOING_BACK}"
    if outcome.answer == "keep":
        return f"{cost}The planned test has decided this."
    return f"{cost}{_more_seeds(outcome)}"


def _more_seeds(outcome: Outcome) -> str:
    if outcome.reasons and not outcome.looked_at:
        return f"Make the missing runs first: the first look is at {outcome.looks[0]} seeds."
    if outcome.reasons:
        return "Put that right before more is run."
    if outcome.looked_at < outcome.looks[-1]:
        return (
            f"The study goes on: the next look is at {next(look for look in outcome.looks if look > outcome.looked_at)} seeds."
        )
    if outcome.seeds_wanted is None:
        return "No number of seeds in reach would show a difference as small as the one seen."
    return (
        f"If the difference seen is the true one, about {outcome.seeds_wanted} seeds an arm show it at one horizon in 80 % of "
        f"studies."
    )
