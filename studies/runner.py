"""`sbrl study run`: makes the runs of a study that are not in its results yet, N at a time, and records each.

All state is on disk: after Ctrl-C or kill -9, or on another machine, the same command continues from the records. An
interrupted run with all roles resumes; an interrupted run in one process starts again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sbrl.errors import RunError, UsageError
from sbrl.runtime.stop_signals import StopRequest
from sbrl.storage.atomic import replace_text
from sbrl.storage.metadata import git_commit
from sbrl.storage.run_directory import RunDirectory
from studies.arms import Arm, PlannedRun, arms_of, compared_runs, comparisons_of, tuning_runs
from studies.design import Study
from studies.making import Maker, Places, difference
from studies.pool import Ended, Pool, Task
from studies.progress import StudyProgress
from studies.records import load_records, settings_of
from studies.tuning import Choice, choose, chosen_variants, write_choices

STUDY_COPY = "study.yaml"


class StudyRunner:
    """Makes a study's runs. The caller holds the lock of its work folder."""

    def __init__(
        self,
        study: Study,
        places: Places,
        pool: Pool,
        say: Callable[[str], None],
        *,
        retry_failed: bool = False,
        keep_runs: bool = False,
    ) -> None:
        """
        Args:
            retry_failed: runs that failed before are made again.
            keep_runs: run directories are not deleted.
        """
        self._study, self._places, self._pool, self._say = study, places, pool, say
        self._retry_failed, self._maker = retry_failed, Maker(study, places, keep_runs=keep_runs)
        self._commit, self._arms = git_commit(), arms_of(study)
        comparisons_of(study, self._arms)

    def run(self, source: str) -> bool:
        """Makes all runs; returns True at the end, False after a stop.

        Args:
            source: the study file's text, which is kept beside the results.

        Raises:
            UsageError: the results have runs with other settings.
            RunError: runs failed, although all others were made. The message names them.
        """
        tuning = tuning_runs(self._study, self._arms)
        self._check_results(tuning or compared_runs(self._study, self._arms, {}))
        replace_text(self._places.results / STUDY_COPY, source)
        if not self._make(tuning, "tuning runs"):
            return False
        choices = self._choose() if tuning else {}
        arms = [arm for arm in self._arms if not tuning or choices[arm.name].chosen is not None]
        tests = compared_runs(self._study, arms, chosen_variants(self._study, arms, choices) if tuning else {})
        self._check_results(tests)
        if not self._make(tests, "test runs"):
            return False
        self._name_failures([*tuning, *tests], [arm for arm in self._arms if arm not in arms])
        return True

    def _choose(self) -> dict[str, Choice]:
        records = load_records(self._places.results)
        choices = {arm.name: choose(self._study, arm, records) for arm in self._arms}
        write_choices(self._places.results, choices)
        for choice in choices.values():
            edge = ", at the edge of what was tried: a better one may lie beyond" if choice.at_edge else ""
            self._say(f"{choice.arm}: {choice.chosen or 'no value has runs that all worked'}{edge}")
        return choices

    def _check_results(self, runs: Sequence[PlannedRun]) -> None:
        """Checks existing results before anything is run."""
        others = set()
        for run in runs:
            record = self._maker.recorded(run)
            if record is not None and (changed := difference(record.settings, settings_of(run.config))):
                raise UsageError(
                    f"{self._places.results / run.folder} was made with other settings than the study has now ({changed}): "
                    f"take another folder with --results, or delete what is outdated"
                )
            if record is not None and record.commit != self._commit:
                others.add(record.commit)
        if others:
            self._say(f"note: results of other commits are there already: {', '.join(sorted(others))}; the report will say so")

    def _is_done(self, run: PlannedRun) -> bool:
        record = self._maker.recorded(run)
        return record is not None and (record.status == "complete" or not self._retry_failed)

    def _make(self, runs: Sequence[PlannedRun], what: str) -> bool:
        """Makes the runs that are not done; returns False after a stop."""
        if not runs:
            return True
        waiting = [run for run in runs if not self._is_done(run)]
        self._say(f"{len(runs)} {what}, {len(runs) - len(waiting)} of them done before")
        waiting = [run for run in waiting if not self._maker.record_finished(run)]
        by_name = {run.name: run for run in waiting}
        weights = {run.name: float(run.config.run.env_steps + 4 * run.updates) for run in waiting}
        progress = StudyProgress(weights, len(runs) - len(waiting), self._say)

        def ended(task: Task, end: Ended) -> Task | None:
            run = by_name[task.name]
            again = self._maker.end(run, task, end, self._say)
            if again is None:
                record = self._maker.recorded(run)
                progress.end(task.name, failed=record is None or record.status == "failed")
            return again

        # Tasks are made one by one, so that a run's directory is cleared when its turn comes, not before.
        return self._pool.work_off(
            map(self._maker.task, waiting), ended, lambda tasks: progress.look({task.name: task.log for task in tasks})
        )

    def _name_failures(self, runs: Sequence[PlannedRun], left_out: Sequence[Arm]) -> None:
        records = [record for record in map(self._maker.recorded, runs) if record is not None]
        failed = [f"{record.folder}: {record.reason}" for record in records if record.status == "failed"]
        untuned = [f"{arm.name}: not tested, for no value of its tuning has runs that all worked" for arm in left_out]
        if failed or untuned:
            raise RunError(
                f"{len(failed)} of {len(runs)} runs of the study failed; once their cause is mended, run it again with "
                f"--retry-failed\n" + "\n".join([*failed, *untuned])
            )


def run_study(
    study: Study, source: str, places: Places, jobs: int, stop: StopRequest, say: Callable[[str], None], **options: bool
) -> bool:
    """Makes a study's runs, `jobs` at a time; returns True at the end. Args and raises: see `StudyRunner`.

    Raises:
        RunError: another process runs the study here. If that one was killed, this waits until its runs have ended.
    """
    try:
        places.results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {places.results}: {error.strerror}") from None
    with RunDirectory(places.work).lock() as lock:
        return StudyRunner(study, places, Pool(jobs, stop, [lock]), say, **options).run(source)
