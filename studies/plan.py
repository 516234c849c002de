"""`sbrl study plan`: the study's cost on this machine, and the difference that its seeds can show."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from sbrl.monitor.readable import duration
from studies.arms import Arm, arms_of, compared_runs, comparisons_of, config_of, tuning_runs
from studies.design import Study
from studies.making import Places
from studies.measure import RunCost, cost_key, measure_all
from studies.records import RunRecord, load_records
from studies.statistics.power import detectable_difference
from studies.verdict import ALPHA, LAST_HORIZONS, MIN_SEEDS

RECORD_BYTES = 10_000  # size of one run's record
POWER = 0.8


def plan_study(study: Study, places: Places, jobs: int, measured: bool, console: Console) -> bool:
    """Prints arms, costs and the detectable difference; returns False if the study is known to exceed its budget.

    Raises:
        UsageError: the study's runs are not valid.
        RunError: a short run failed.
    """
    arms = arms_of(study)
    tuning, tests = tuning_runs(study, arms), compared_runs(study, arms, {})
    runs = [*tuning, *tests]
    console.print(f"{study.name}: {study.question}\n", markup=False, soft_wrap=True)
    console.print(_arms_table(study, arms))
    updates = sum(run.updates for run in runs)
    console.print(
        f"\n{len(runs)} runs ({len(tuning)} to tune, {len(tests)} to test) of {study.env_steps:,} env steps, "
        f"{updates:,} updates in all; {len(arms)} arms, {len(study.environments)} environments, "
        f"{len(study.seeds.for_test)} test seeds",
        markup=False,
    )
    console.print(
        _power(study, arms, load_records(places.results) if places.results.is_dir() else []), markup=False, soft_wrap=True
    )
    if not measured:
        return True
    console.print("\nmeasuring short runs of each kind ...")
    measurements = measure_all(runs, study.run_as == "one process", places.work / "measurement")
    costs = [measurements[cost_key(run.config)].cost(run) for run in runs]
    console.print(_costs(costs, jobs), markup=False, soft_wrap=True)
    return _keeps_budget(study, costs, console)


def spread_of(records: Sequence[RunRecord], horizon: int) -> float | None:
    """Standard deviation over seeds as a share of the mean: root mean square over arms and environments; None if unknown.

    Args:
        records: test runs count; tuning runs, failed runs and single seeds are ignored.
    """
    groups: dict[tuple[str, str], list[float]] = {}
    for record in records:
        if record.purpose == "test" and record.status == "complete" and horizon in record.scores:
            groups.setdefault((record.arm, record.environment), []).append(record.scores[horizon])
    several = [scores for scores in groups.values() if len(scores) > 1 and statistics.fmean(scores) != 0]
    shares = [statistics.stdev(scores) / abs(statistics.fmean(scores)) for scores in several]
    return math.sqrt(statistics.fmean(share**2 for share in shares)) if shares else None


def _arms_table(study: Study, arms: Sequence[Arm]) -> Table:
    table = Table(box=None, header_style="bold")
    table.add_column("arm")
    for name in ("batch", "updates/step", "samples/insert", "learning rate", "beta2", "n"):
        table.add_column(name, justify="right")
    for arm in arms:
        config = config_of(study, arm, study.environments[0], seed=0)
        learner = config.learner
        table.add_row(
            arm.name,
            str(learner.batch_size),
            f"{learner.updates_per_step:g}",
            f"{config.samples_per_insert:g}",
            f"{learner.learning_rate:g}{' (tuned)' if study.tuning and study.tuning.key == 'learner.learning_rate' else ''}",
            f"{learner.adam_beta2:.6g}",
            str(config.agent.n_step),
        )
    return table


def _power(study: Study, arms: Sequence[Arm], records: Sequence[RunRecord]) -> str:
    """The text on the difference that the comparisons can show."""
    seeds, comparisons = len(study.seeds.for_test), comparisons_of(study, arms)
    if not comparisons:
        return "nothing is compared: there is no comparison that a difference could be shown in"
    if seeds < MIN_SEEDS:
        return f"no verdict: seeds.test has {seeds} seed{'s' * (seeds != 1)}, and a verdict needs {MIN_SEEDS}; add some"
    if len(study.horizons) < LAST_HORIZONS:
        return f"no verdict: horizons has one env step, and a verdict needs {LAST_HORIZONS}; add an earlier one"
    found = spread_of(records, study.env_steps)
    spread, source = (study.spread, "as the study states") if found is None else (found, "from the results that are there")
    if spread is None:
        return (
            "detectable difference: unknown, because the spread over seeds is unknown; run the first seeds and plan again, or "
            "state `spread` in the study"
        )
    candidates = max(len(comparison.candidates) for comparison in comparisons)
    share = detectable_difference(spread, seeds, len(study.environments), candidates, ALPHA, POWER)
    return (
        f"detectable difference: {share:.0%} of the score, with {POWER:.0%} power at {ALPHA:g} over {candidates} candidates, "
        f"at one horizon, if the standard deviation over seeds is {spread:.0%} of it ({source}); a verdict "
        f"needs {LAST_HORIZONS} horizons, which has less power"
    )


def _costs(costs: Sequence[RunCost], jobs: int) -> str:
    core_hours = sum(cost.core_seconds for cost in costs) / 3600
    seconds, longest = sum(cost.seconds for cost in costs), max(cost.seconds for cost in costs)
    work = max(cost.bytes for cost in costs) * jobs
    cores = len(os.sched_getaffinity(0))
    crowded = f"; {jobs} at a time is more than the {cores} cores here, so it will take longer" if jobs > cores else ""
    return (
        f"{core_hours:.2g} core-hours; {duration(max(seconds / jobs, longest))} at {jobs} at a time (a run takes "
        f"{duration(seconds / len(costs))}, the longest {duration(longest)}){crowded}\n"
        f"disk: {len(costs) * RECORD_BYTES / 1e6:.1f} MB of records, {work / 1e6:.0f} MB of run directories while they are at "
        f"work"
    )


def _keeps_budget(study: Study, costs: Sequence[RunCost], console: Console) -> bool:
    if study.budget_core_hours is None:
        return True
    core_hours = sum(cost.core_seconds for cost in costs) / 3600
    if core_hours <= study.budget_core_hours:
        console.print(f"within the budget of {study.budget_core_hours:g} core-hours")
        return True
    console.print(
        f"beyond the budget of {study.budget_core_hours:g} core-hours, {core_hours / study.budget_core_hours:.1f} times: take "
        f"fewer seeds, arms or env steps, or raise budget_core_hours",
        soft_wrap=True,
    )
    return False
