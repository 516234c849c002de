"""Makes a report from evidence: its parts and their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from studies.costs import ArmCost, Prices, arm_cost, break_even, incomplete_curves, length_of, total_money
from studies.design import Comparison
from studies.evidence import SHOWN, SMOOTH, Evidence
from studies.grids import power_laws, sensitivities
from studies.outcomes import Outcome, answer
from studies.records import BINS
from studies.report import pictures, tables, words
from studies.report.page import Picture, Report, Section, Verdict, number
from studies.statistics.aggregates import Floats, iqm

Reaches = dict[str, float | None]


def make_report(evidence: Evidence, prices: Prices, command: str) -> Report:
    """Args: command: the command that makes this report again."""
    question = evidence.question
    outcomes = tuple(answer(evidence, comparison) for comparison in question.comparisons)
    costs = {arm: _cost(evidence, arm, prices) for arm in question.arms if _runs(evidence, arm)}
    reaches = [_reaches(evidence, outcome) for outcome in outcomes]
    verdicts = tuple(
        words.verdict_of(outcome, costs, reached) if _comparable(outcome.comparison, costs) else _nothing(outcome)
        for outcome, reached in zip(outcomes, reaches, strict=True)
    )
    if not verdicts:
        verdicts = (Verdict("not shown", "No comparison is asked for", ("Runs are shown side by side, and none is judged.",)),)
    sections = [
        *(_results(evidence, outcome) for outcome in outcomes),
        *([] if outcomes else [_overview(evidence)]),
        _grid(evidence),
        _costs(evidence, outcomes, costs, reaches, prices),
        _checks(evidence, outcomes),
        Section("What this evidence cannot say", bullets=words.limits(evidence, outcomes)),
        Section(
            "Before a pilot moves to production",
            paragraphs=(words.GOING_BACK,),
            bullets=words.checklist(outcomes),
            checklist=True,
        ),
        Section("Diagnostics", paragraphs=(_DIAGNOSTICS,), tables=tables.diagnostics(evidence)),
        Section("Methods", paragraphs=words.METHODS, tables=(tables.scales(evidence),)),
        Section("Settings", tables=tables.settings(evidence)),
        Section("Every run", tables=(tables.runs(evidence),)),
        _again(evidence, command),
    ]
    return Report(
        title=question.text,
        verdicts=verdicts,
        sections=tuple(section for section in sections if section is not None),
        tables={
            "runs": tables.runs_csv(evidence),
            "results": tables.results_csv(outcomes),
            "curves": tables.curves_csv(evidence),
            "costs": tables.costs_csv(costs),
        },
    )


_DIAGNOSTICS = (
    "Each run's last measurement: mean over runs ± standard deviation over them; docs/small-batch.md says what each means. "
    "The noise scale is that of the data's gradients: no best batch follows from it."
)


def _runs(evidence: Evidence, arm: str) -> list[tuple[str, int]]:
    return [(environment, seed) for name, environment, seed in evidence.runs if name == arm]


def _comparable(comparison: Comparison, costs: Mapping[str, ArmCost]) -> bool:
    return bool(comparison.candidates) and all(arm in costs for arm in (comparison.baseline, *comparison.candidates))


def _nothing(outcome: Outcome) -> Verdict:
    baseline = outcome.comparison.baseline
    why = outcome.reasons[0] if outcome.reasons else "There are no whole runs of all arms."
    return Verdict("not shown", f"Not shown: keep {baseline} for now", (why,))


def _cost(evidence: Evidence, arm: str, prices: Prices) -> ArmCost:
    runs = [evidence.runs[arm, environment, seed] for environment, seed in _runs(evidence, arm)]
    last = evidence.question.horizons[-1]
    scores = np.array([evidence.scales[run.environment].apply(np.array(run.scores[last])) for run in runs])
    return arm_cost(runs, float(iqm(scores[:, None])), prices, last)


def mean_curves(evidence: Evidence, arms: Sequence[str], seeds: Sequence[int]) -> tuple[Floats, dict[str, Floats]]:
    """Env steps float64[T], and each arm's IQM on the common scale, float64[T]."""
    found = {}
    steps = np.zeros(0)
    for arm in arms:
        steps, returns = evidence.smooth_curves(arm, seeds)
        found[arm] = iqm(np.moveaxis(pictures.scaled(evidence, returns), 2, 0))
    return steps, found


def _common_steps(evidence: Evidence) -> Floats:
    return evidence.curves("", ())[0]


def _reaches(evidence: Evidence, outcome: Outcome) -> Reaches:
    """By candidate, the share of the steps at break-even, or None; empty if curves or seeds are missing for all."""
    if not outcome.seeds or _why_no_break_even(evidence):
        return {}
    baseline = outcome.comparison.baseline
    steps, found = mean_curves(evidence, (baseline, *outcome.comparison.candidates), outcome.seeds)
    until = steps <= evidence.question.horizons[-1]
    return {
        arm: None if _behind(outcome, arm) else break_even(steps[until], found[arm][until], found[baseline][until])
        for arm in outcome.comparison.candidates
    }


def _behind(outcome: Outcome, arm: str) -> bool:
    last = outcome.beside[arm][-1]
    return last.candidate < last.baseline


def _why_no_break_even(evidence: Evidence) -> str | None:
    """The reason that concerns every arm: curves are missing, damaged, or share too few points up to the last horizon."""
    last = evidence.question.horizons[-1]
    torn = [f"{arm} on {environment}, seed {seed}" for arm, environment, seed in incomplete_curves(evidence.runs)]
    if torn:
        more = f"; and {len(torn) - SHOWN} more" if len(torn) > SHOWN else ""
        return f"No break-even: learning curves are damaged, for they lack points: {'; '.join(torn[:SHOWN])}{more}."
    steps = _common_steps(evidence)
    steps = steps[steps <= last]
    if not len(steps):
        return "No break-even: there are no learning curves."
    if steps[-1] < last or np.diff(steps, prepend=0).max() > last / SMOOTH:
        return f"No break-even: the learning curves of all runs share too few env steps up to {last:,}."
    return None


def _without_curves(evidence: Evidence) -> tuple[str, ...]:
    """The reason why no learning curve is drawn; nothing if some are."""
    if len(_common_steps(evidence)):
        return ()
    empty = sum(not run.returns for run in evidence.runs.values())
    if not empty:
        return ("No learning curve is drawn: no env step is in the curves of all runs.",)
    return (
        f"No learning curve is drawn, because {empty} of {len(evidence.runs)} runs have none: no training episode ended in "
        f"them, or they have fewer than {BINS} env steps.",
    )


def _results(evidence: Evidence, outcome: Outcome) -> Section:
    comparison = outcome.comparison
    many = len(evidence.question.comparisons) > 1
    title = f"Results: against {comparison.baseline}" if many else "Results"
    scale = " on the common scale (see Methods)" if outcome.seeds else ""
    looks = ", ".join(map(str, outcome.looks))
    return Section(
        title,
        paragraphs=(
            f"IQM{scale} over {len(outcome.seeds)} seeds on {len(evidence.environments)} environment"
            f"{'s' if len(evidence.environments) > 1 else ''}. Planned looks at {looks} seeds; looked at {outcome.looked_at}.",
            *_without_curves(evidence),
        ),
        tables=(tables.results(outcome),) if outcome.seeds else (),
        pictures=pictures.of_comparison(evidence, outcome) if outcome.seeds else (),
    )


def _overview(evidence: Evidence) -> Section:
    return Section(
        "Results",
        paragraphs=_without_curves(evidence),
        tables=(tables.overview(evidence),),
        pictures=pictures.of_arms(evidence),
    )


def _grid(evidence: Evidence) -> Section | None:
    found = sensitivities(evidence)
    laws, reasons = power_laws(evidence)
    if not found and not laws and not reasons:
        return None
    return Section(
        "Sensitivity and best values",
        paragraphs=(
            "What is lost on the common scale by a value at half or at twice the best one; the best is chosen on all seeds but "
            "one, and the loss read off that one. Power laws (Rybkin et al. 2025): the value that needs least data to a return "
            "that 80 % of the best runs reach, against the updates per step; intervals over seeds. Published for continuous "
            "control: exponents of -0.3 to -0.5.",
        ),
        bullets=tuple(reasons),
        tables=(*([tables.sensitivities(found)] if found else []), *([tables.laws(laws)] if laws else [])),
    )


def _costs(
    evidence: Evidence, outcomes: Sequence[Outcome], costs: Mapping[str, ArmCost], reaches: Sequence[Reaches], prices: Prices
) -> Section:
    why = _why_no_break_even(evidence)
    bullets = [why] if why and outcomes else []
    for outcome, reached in zip(outcomes, reaches, strict=True):
        baseline = costs.get(outcome.comparison.baseline)
        for name, share in reached.items():
            own, other = costs.get(name), outcome.comparison.baseline
            if share is None or own is None or baseline is None:
                bullets.append(
                    f"No break-even: at the last horizon, the score of {name} is below that of {other}."
                    if _behind(outcome, name)
                    else f"No break-even: the smoothed curve of {name} does not reach the end of that of {other}."
                )
                continue
            parts = [f"{100 * share:.0f} % of the steps"]
            if own.wall_seconds is not None and baseline.wall_seconds:
                parts.append(f"{100 * share * own.wall_seconds / baseline.wall_seconds:.0f} % of the time")
            if own.money is not None and baseline.money:
                parts.append(f"{100 * share * own.money / baseline.money:.0f} % of the money")
            bullets.append(
                f"Break-even: the smoothed curve of {name} reaches the end of that of {other} after {', '.join(parts)}."
            )
            bullets += _repaid(evidence, name, own, baseline, share, prices)
    spent = total_money(evidence.records, prices)
    everything = f"All {len(evidence.records)} runs, tuning and failed ones too, cost {number(spent)} USD. " if spent else ""
    return Section(
        "Cost",
        paragraphs=(
            f"{everything}{_lengths(evidence)}Prices are assumptions: {prices.core_hour:g} USD an hour of a core, "
            f"{prices.gpu_hour:g} of a GPU, {prices.gigabyte:g} a GB moved; give yours with --prices. "
            f"A dash: not every run says it.",
        ),
        bullets=tuple(bullets),
        tables=(tables.costs(costs),),
        pictures=_over_time(evidence, outcomes, costs),
    )


def _lengths(evidence: Evidence) -> str:
    """A sentence on runs that are longer than the last horizon, at which scores are compared; empty if there are none."""
    lengths, last = sorted({length_of(run) for run in evidence.runs.values()}), evidence.question.horizons[-1]
    if lengths == [last]:
        return ""
    what = f"different lengths, {lengths[0]:,} to {lengths[-1]:,}" if len(lengths) > 1 else f"{lengths[0]:,}"
    return (
        f"Runs have {what} env steps: costs and break-even are those of the first {last:,}, as if time, money and bytes passed "
        f"evenly over steps. "
    )


def _over_time(evidence: Evidence, outcomes: Sequence[Outcome], costs: Mapping[str, ArmCost]) -> tuple[Picture, ...]:
    hours = {arm: cost.wall_seconds / 3600 for arm, cost in costs.items() if cost.wall_seconds}
    arms = [(outcome.comparison.baseline, *outcome.comparison.candidates) for outcome in outcomes]
    return tuple(picture for one in arms for picture in pictures.over_time(evidence, one, hours))


def _repaid(evidence: Evidence, name: str, own: ArmCost, baseline: ArmCost, share: float, prices: Prices) -> tuple[str, ...]:
    spent = total_money(evidence.records, prices)
    if not spent or own.money is None or baseline.money is None or own.money * share >= baseline.money:
        return ()
    runs = spent / (baseline.money - own.money * share)
    return (f"Runs of this length that end there repay the study after {number(np.ceil(runs))} of them with {name}.",)


def _checks(evidence: Evidence, outcomes: Sequence[Outcome]) -> Section:
    found = list(dict.fromkeys([one.text for one in evidence.findings] + [text for one in outcomes for text in one.reasons]))
    if not found:
        return Section(
            "Checks",
            paragraphs=(
                "All planned runs are there and whole, of one version and commit; arms differ in nothing but what is studied; "
                "no test seed was tuned on; samples per insert are what the settings ask for.",
            ),
        )
    return Section(
        "Checks", paragraphs=("What was found, and is held against the verdict where it touches it:",), bullets=tuple(found)
    )


def _again(evidence: Evidence, command: str) -> Section:
    runs = list(evidence.runs.values())
    return Section(
        "How to make this again",
        bullets=(
            f"Command: {command}",
            f"Versions of sbrl: {', '.join(sorted({run.version for run in runs}))}",
            f"Commits: {', '.join(sorted({run.commit for run in runs}))}",
            f"Hardware: {'; '.join(sorted({run.hardware for run in runs}))}",
            "Config hashes: of each run in its row above.",
        ),
    )
