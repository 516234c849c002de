"""One run of a study: the command that makes it, and the record that is kept of it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
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
from studies.records import RECORD, RunRecord, load_record, record_of_run_directory, settings_of, write_record


class Places(NamedTuple):
    """Where a study keeps what."""

    results: Path  # small records: can be committed, and taken to another machine
    work: Path  # run directories and logs: a run's is deleted once it is recorded

    def run_directory(self, run: PlannedRun) -> Path:
        return self.work / "runs" / run.folder

    def log(self, run: PlannedRun) -> Path:
        return self.work / "logs" / f"{run.folder}.log"


class Maker:
    """Makes the runs of one study, each as often as it is told to."""

    def __init__(self, study: Study, places: Places, *, keep_runs: bool = False) -> None:
        """Args: keep_runs: run directories are not deleted."""
        self._study, self._places, self._keep_runs = study, places, keep_runs

    def recorded(self, run: PlannedRun) -> RunRecord | None:
        folder = self._places.results / run.folder
        return load_record(folder) if (folder / RECORD).exists() else None

    def task(self, run: PlannedRun) -> Task:
        """The run's command, from where it was cut off if it can go on from there."""
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
        """Whether a run directory is of this very run."""
        try:
            return settings_of(configs.load(RunDirectory(directory).config)) == settings_of(run.config)
        except UsageError:  # none there, or cut off as it was written
            return False

    def record_finished(self, run: PlannedRun) -> bool:
        """Records a run that was finished but not recorded when an earlier session ended."""
        directory = self._places.run_directory(run)
        if not read_summary(RunDirectory(directory).summary).get("complete") or not self._holds(directory, run):
            return False
        return not self.record(run, Ended(0, 0.0), resumed=True)

    def record(self, run: PlannedRun, end: Ended, resumed: bool) -> str:
        """Records a run that has ended, and deletes its directory; returns why it failed, or nothing."""
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
                core_seconds=None if resumed else end.core_seconds,  # of its last session only
            )
        except SbrlError as error:
            return str(error)
        if record.status == "failed":
            return record.reason
        if record.config_hash != run.hash:
            return f"its settings are not the planned ones: {difference(record.settings, settings_of(run.config))}"
        write_record(self._places.results, record)
        if not self._keep_runs:
            shutil.rmtree(directory)
        return ""

    def record_failed(self, run: PlannedRun, reason: str) -> None:
        """Records a run that has come to nothing."""
        write_record(self._places.results, failed_record(self._study, run, reason))


def failed_record(study: Study, run: PlannedRun, reason: str) -> RunRecord:
    """The record of a run that has come to nothing."""
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
    )


def difference(before: Mapping[str, object], after: Mapping[str, object]) -> str:
    """What settings differ in, as a message says it."""
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    parts = [f"{key} {before.get(key)!r}, now {after.get(key)!r}" for key in keys[:3]]
    return ", ".join([*parts, *([f"and {len(keys) - 3} more"] if len(keys) > 3 else [])])


def _is_resumable(directory: Path) -> bool:
    try:
        RunDirectory(directory).check_resumable()
    except UsageError:
        return False
    return True
