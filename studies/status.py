"""`sbrl study status`: a study's progress, from its records alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from studies.arms import PlannedRun, arms_of, compared_runs, tuning_runs
from studies.design import Study
from studies.records import RunRecord, load_records


def show_status(study: Study, results: Path, console: Console) -> bool:
    """Prints a row for each arm and environment, and why runs failed; returns whether all runs are complete.

    Raises:
        UsageError: a record is damaged.
    """
    records = {record.folder: record for record in load_records(results)} if results.is_dir() else {}
    arms = arms_of(study)
    tuning, tests = tuning_runs(study, arms), compared_runs(study, arms, {})
    table = Table(title=f"{study.name}: {study.question}", title_justify="left", box=None, header_style="bold")
    for name in ("arm", "environment", *(["tuning runs"] if tuning else []), "test runs", "failed"):
        table.add_column(name, justify="left" if name in ("arm", "environment") else "right")
    for arm in arms:
        for environment in study.environments:
            of_row = [
                [run for run in runs if (run.arm, run.environment) == (arm.name, environment)] for runs in (tuning, tests)
            ]
            failed = sum(_status(run, records) == "failed" for runs in of_row for run in runs)
            cells = [_share(runs, records) for runs in (of_row if tuning else of_row[1:])]
            table.add_row(arm.name, environment, *cells, str(failed) if failed else "")
    console.print(table)
    runs = [*tuning, *tests]
    for run in runs:
        if _status(run, records) == "failed":
            console.print(f"{run.folder}: {records[run.folder].reason}", markup=False, soft_wrap=True)
    complete = sum(_status(run, records) == "complete" for run in runs)
    console.print(f"{complete} of {len(runs)} runs are complete, in {results}", markup=False, soft_wrap=True)
    return complete == len(runs)


def _share(runs: Sequence[PlannedRun], records: dict[Path, RunRecord]) -> str:
    return f"{sum(_status(run, records) == 'complete' for run in runs)}/{len(runs)}"


def _status(run: PlannedRun, records: dict[Path, RunRecord]) -> str:
    record = records.get(run.folder)
    return record.status if record else "to do"
