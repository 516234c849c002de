"""`sbrl tune`: trials of a search, each with several seeds, N runs at a time, through Optuna's storage.

A trial's runs are made one after another, seed by seed. After each seed, the pruner judges the objective so far. Several trials
run at the same time. All state is on disk: Optuna's storage has the trials, the results have a record of each run. After Ctrl-C
or kill -9, the same command continues the trials that it had begun. Other processes may share the storage.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from sbrl.errors import RunError, UsageError
from sbrl.monitor.readable import duration
from studies.arms import PlannedRun, arms_of, config_of
from studies.design import ArmSpec, Settings, Study
from studies.making import Maker, Places
from studies.pool import Ended, Pool, Task
from studies.progress import LINE_SECONDS
from studies.records import RunRecord
from studies.scales import known_scale
from studies.search.space import Space, ask, space_of

HOPELESS = 3  # after this many failed trials and no successful one, the next would fail too
SETTINGS, WORKER, SCORES, REASON, SEARCH = "settings", "worker", "scores", "reason", "search"  # Optuna's user attributes


def open_search(study: Study, storage: str, space: Space) -> optuna.Study:
    """Optuna's study with the study's name in the storage, made if it does not exist.

    Raises:
        UsageError: the storage cannot be opened, or has another search with that name.
    """
    seed = study.seeds.for_tuning[0]
    if study.search.sampler == "tpe":
        sampler: optuna.samplers.BaseSampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
    else:
        sampler = optuna.samplers.RandomSampler(seed=seed)
    if study.search.pruner == "median":
        pruner: optuna.pruners.BasePruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_min_trials=5)
    else:
        pruner = optuna.pruners.NopPruner()
    try:
        search = optuna.create_study(
            study_name=study.name,
            storage=storage,
            sampler=sampler,
            pruner=pruner,
            direction="maximize",
            load_if_exists=True,
        )
    except Exception as error:  # whatever the database's driver raises
        text = " ".join(str(error).split())[:200]
        raise UsageError(
            f"storage {storage} cannot be opened: {text}; give --storage a URL such as sqlite:///trials.db"
        ) from None
    mine = description(study, space)
    theirs = search.user_attrs.get(SEARCH)
    if theirs is None:
        search.set_user_attr(SEARCH, mine)
    elif theirs != mine:
        raise UsageError(
            f"storage {storage} holds trials of another search named {study.name}: the study file has changed since; "
            f"rename it, or give --storage and --results others"
        )
    return search


def description(study: Study, space: Space) -> str:
    """A text that is equal for searches with comparable trials."""
    parts = {key: [type(part).__name__, *part] for key, part in space.items()}
    tree = study.model_dump(
        mode="json", include={"preset", "settings", "run_as", "environments", "horizons", "score", "periods"}
    )
    of_search = (study.search.objective, study.seeds.for_tuning)
    return json.dumps([parts, tree, of_search], sort_keys=True)


class Trials:
    """Makes the trials of a search."""

    def __init__(
        self, study: Study, places: Places, search: optuna.Study, pool: Pool, say: Callable[[str], None], worker: str
    ) -> None:
        """Args: worker: a stable name of this process, by which it finds the trials that it had begun."""
        self._study, self._places, self._search, self._pool, self._say = study, places, search, pool, say
        self._worker, self._space, self._maker = worker, space_of(study), Maker(study, places)
        self._trial_of: dict[str, Trial] = {}  # of the running runs, by run name
        self._run_of: dict[str, PlannedRun] = {}
        self._before = self._total = 0  # numbers of trials
        self._start = self._last_line = 0.0

    def run(self, trials: int) -> bool:
        """Makes trials until the storage has this many; returns True at the end, False after a stop.

        Raises:
            RunError: the first trials all failed. The message says why.
        """
        all_of_them = self._search.get_trials(deepcopy=False)
        begun = [one for one in all_of_them if one.state == TrialState.RUNNING and one.user_attrs.get(WORKER) == self._worker]
        self._before, self._total = len(self.ended()), trials
        self._say(f"{trials} trials, {self._before} of them done before, {len(begun)} to go on with")
        self._start = self._last_line = time.monotonic()
        return self._pool.work_off(self._first_tasks(begun), self._run_ended, lambda _tasks: self._look())

    def ended(self) -> list[FrozenTrial]:
        """Finished trials in order: complete, pruned or failed."""
        return [one for one in self._search.get_trials(deepcopy=False) if one.state.is_finished()]

    def _look(self) -> None:
        """Prints a line now and then."""
        if time.monotonic() - self._last_line >= LINE_SECONDS:
            self._show()

    def _show(self) -> None:
        self._last_line = time.monotonic()
        done, elapsed = len(self.ended()), self._last_line - self._start
        made, left = done - self._before, max(0, self._total - done)
        eta = f"ETA {duration(elapsed * left / made)}" if made and left else "ETA not known yet" if left else "all of them"
        self._say(f"{done}/{self._total} trials are done, {duration(elapsed)} so far, {eta}; at work: {len(self._run_of)} runs")

    def _first_tasks(self, begun: Sequence[FrozenTrial]) -> Iterator[Task]:
        """The first run of each trial. A new trial is asked for only when there is room, so that it can use all results."""
        for frozen in begun:
            if (task := self._next_task(Trial(self._search, frozen._trial_id))) is not None:
                yield task
        while len(self._search.get_trials(deepcopy=False)) < self._total:  # others may add to them
            trial = self._search.ask()
            trial.set_user_attr(WORKER, self._worker)
            trial.set_user_attr(SETTINGS, json.dumps(ask(self._space, trial)))
            if (task := self._next_task(trial)) is not None:
                yield task

    def _next_task(self, trial: Trial) -> Task | None:
        """The trial's next run; None if the trial is over. In that case Optuna has its result."""
        if SETTINGS not in trial.user_attrs:  # killed before its settings were stored
            self._end(trial, TrialState.FAIL, "it was cut off before its settings were chosen")
            return None
        records: list[RunRecord] = []
        for run in runs_of(self._study, trial.number, json.loads(trial.user_attrs[SETTINGS])):
            record = self._maker.recorded(run)
            if record is None and not self._maker.record_finished(run):
                self._trial_of[run.name], self._run_of[run.name] = trial, run
                return self._maker.task(run)
            record = record or self._maker.recorded(run)
            assert record is not None
            if record.status == "failed":
                self._end(trial, TrialState.FAIL, record.reason)
                return None
            records.append(record)
            if self._is_hopeless(trial, records):
                self._end(trial, TrialState.PRUNED, "")
                return None
        trial.set_user_attr(SCORES, [record.scores[self._study.env_steps] for record in records])
        self._search.tell(trial.number, objective(self._study, records))
        self._say(f"trial {trial.number}: {objective(self._study, records):.4g}, {trial.user_attrs[SETTINGS]}")
        self._show()
        return None

    def _is_hopeless(self, trial: Trial, records: Sequence[RunRecord]) -> bool:
        seeds, environments = self._study.seeds.for_tuning, len(self._study.environments)
        if len(records) % environments or len(records) == len(seeds) * environments:  # judge after each whole seed but the last
            return False
        step = len(records) // environments
        if step not in self._search.get_trials(deepcopy=False)[trial.number].intermediate_values:  # reported before a kill
            trial.report(objective(self._study, records), step)
        return bool(trial.should_prune())

    def _run_ended(self, task: Task, end: Ended) -> Task | None:
        run, trial = self._run_of.pop(task.name), self._trial_of.pop(task.name)
        again = self._maker.end(run, task, end, self._say)
        if again is None:
            return self._next_task(trial)
        self._run_of[task.name], self._trial_of[task.name] = run, trial
        return again

    def _end(self, trial: Trial, state: TrialState, reason: str) -> None:
        trial.set_user_attr(REASON, reason)
        self._search.tell(trial.number, state=state)
        self._say(f"trial {trial.number}: {'failed: ' + reason if reason else 'pruned after its first seeds'}")
        self._show()
        ended = self.ended()
        if len(ended) >= HOPELESS and all(one.state == TrialState.FAIL for one in ended):
            raise RunError(
                f"the first {len(ended)} trials all failed, the last because: {reason}; logs: {self._places.work / 'logs'}"
            )


def runs_of(study: Study, number: int, settings: Settings) -> list[PlannedRun]:
    """A trial's runs, seed by seed, with periods scaled as the study says."""
    spec = ArmSpec(name=f"trial {number}", settings=settings, axes=("fixed updates per step",))
    (arm,) = arms_of(study.model_copy(update={"arms": (spec,)}))
    return [
        PlannedRun(arm.name, environment, seed, "tune", "search", config_of(study, arm, environment, seed))
        for seed in study.seeds.for_tuning
        for environment in study.environments
    ]


def objective(study: Study, records: Sequence[RunRecord]) -> float:
    """Mean or median over seeds of the mean over environments. With several environments, scores are scaled first."""
    scaled, count = [_scaled(study, record) for record in records], len(study.environments)
    of_seeds = [statistics.fmean(scaled[start : start + count]) for start in range(0, len(scaled), count)]
    return statistics.median(of_seeds) if study.search.objective == "median" else statistics.fmean(of_seeds)


def _scaled(study: Study, record: RunRecord) -> float:
    score = record.scores[study.env_steps]
    if len(study.environments) == 1:
        return score
    scale = known_scale(record.environment)
    assert scale is not None  # `sbrl tune` refuses a search with such environments
    return (score - scale.low) / (scale.high - scale.low)
