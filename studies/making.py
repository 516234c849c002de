"""One run of a study: the command that makes it, and its record."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from sbrl import config as configs
from sbrl.errors import SbrlError, UsageError
from sbrl.monitor.summary import read_summary
from sbrl.storage.atomic import replace_text
from sbrl.storage.metadata import git_commit, hardware, version
from sbrl.storage.run_directory import RunDirectory
from studies.arms import PlannedRun
from studies.design import Study
from studies.pool import Ended, Task, last_words
from studies.records import (
    RECORD,
    Costs,
    Counts,
    RunRecord,
    load_record,
    record_of_run_directory,
    settings_of,
    write_record,
)


class Places(NamedTuple):
    """A study's folders."""

    results: Path  # small records, which can be committed, or moved to another machine
    work: Path  # run directories and logs; a run directory is deleted once the run is recorded

    def run_directory(self, run: PlannedRun) -> Path:
        return self.work / "runs" / run.folder

    def log(self, run: PlannedRun) -> Path:
        return self.work / "logs" / f"{run.folder}.log"


class Maker:
    """Makes and records the runs of one study."""

    def __init__(self, study: Study, places: Places, *, keep_runs: bool = False) -> None:
        """Args: keep_runs: run directories are not deleted."""
        self._study, self._places, self._keep_runs = study, places, keep_runs
        self._failed: set[str] = set()  # names of runs that failed once

    def recorded(self, run: PlannedRun) -> RunRecord | None:
        folder = self._places.results / run.folder
        return load_record(folder) if (folder / RECORD).exists() else None

    def task(self, run: PlannedRun) -> Task:
        """The run's command. It resumes an interrupted run if that is possible."""
        directory, arguments = self._places.run_directory(run), ["train", "--run-dir", str(self._places.run_directory(run))]
        if self._study.run_as == "all roles" and self._holds(directory, run) and _is_resumable(directory):
            arguments.append("--resume")
        else:
            if directory.exists():
                shutil.rmtree(directory)
            file = self._places.work / "configs" / f"{run.folder}.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_text(file, configs.dump(run.config))
            arguments += ["--config", str(file), *(["--serial"] if self._study.run_as == "one process" else [])]
        return Task(run.name, (sys.executable, "-m", "sbrl.cli", *arguments), self._places.log(run))

    def _holds(self, directory: Path, run: PlannedRun) -> bool:
        """Whether a run directory belongs to exactly this run."""
        try:
            return settings_of(configs.load(RunDirectory(directory).config)) == settings_of(run.config)
        except UsageError:  # there is none, or it was only partly written
            return False

    def record_finished(self, run: PlannedRun) -> bool:
        """Records a run that finished before, but was not recorded because the study was interrupted."""
        directory = self._places.run_directory(run)
        if not read_summary(RunDirectory(directory).summary).get("complete") or not self._holds(directory, run):
            return False
        return not self.record(run, Ended(0, 0.0), resumed=True)

    def end(self, run: PlannedRun, task: Task, end: Ended, say: Callable[[str], None]) -> Task | None:
        """Records a run that has ended. If it failed, returns the task of its second attempt, or records a second failure."""
        failure = self.record(run, end, resumed="--resume" in task.command)
        if failure and run.name not in self._failed:
            self._failed.add(run.name)
            say(f"{run.name} failed, and is tried once more: {failure}")
            return self.task(run)
        if failure:
            say(f"{run.name} failed again: {failure}; see {task.log}")
            write_record(self._places.results, failed_record(self._study, run, failure))
        return None

    def record(self, run: PlannedRun, end: Ended, resumed: bool) -> str:
        """Records a run that worked, and deletes its directory; returns why it failed, or an empty text."""
        directory = self._places.run_directory(run)
        if end.code != 0:
            return last_words(self._places.log(run)) or f"it ended with exit code {end.code}"
        try:
            record = record_of_run_directory(
                directory,
                study=self._study.name,
                arm=run.arm,
                purpose=run.purpose,
                variant=run.variant,
                horizons=self._study.horizons,
                score=self._study.score,
                core_seconds=None if resumed else end.core_seconds,  # covers only the time since the last resume
            )
        except SbrlError as error:
            return str(error)
        if record.status == "failed":
            return record.reason
        if changed := difference(record.settings, settings_of(run.config)):
            return f"its settings are not the planned ones: {changed}"
        write_record(self._places.results, record)
        if not self._keep_runs:
            shutil.rmtree(directory)
        return ""


def failed_record(study: Study, run: PlannedRun, reason: str) -> RunRecord:
    """The record of a failed run."""
    return RunRecord(
        study=study.name,
        arm=run.arm,
        environment=run.environment,
        seed=run.seed,
        purpose=run.purpose,
        settings=settings_of(run.config),
        returns=(),
        evaluations=(),
        scores={},
        config_hash=run.hash,
        version=version("sbrl"),
        commit=git_commit(),
        hardware=hardware(),
        status="failed",
        reason=reason,
        variant=run.variant,
        score=study.score,
        counts=Counts(env_steps=0, updates=0, samples_trained=0, samples_per_insert=None),
        costs=Costs(wall_seconds=None, core_seconds=None, gpu_seconds=None, bytes_moved=None),
        diagnostics={},
    )


def difference(before: Mapping[str, object], after: Mapping[str, object]) -> str:
    """The differences between two settings, for a message; empty if they are equal."""
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    parts = [f"{key} {before.get(key)!r}, now {after.get(key)!r}" for key in keys[:3]]
    return ", ".join([*parts, *([f"and {len(keys) - 3} more"] if len(keys) > 3 else [])])


def _is_resumable(directory: Path) -> bool:
    try:
        RunDirectory(directory).check_resumable()
    except UsageError:
        return False
    return True
