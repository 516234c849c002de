"""The question of a report: which arms are compared with which, over which environments, seeds and horizons.

For a study's results it comes from their copy of the study file. For run directories it comes from their settings: runs that
differ only in seed and environment belong to one arm.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sbrl import config as configs
from sbrl.errors import UsageError, nearest
from sbrl.storage.run_directory import RunDirectory
from studies.arms import BATCH_SIZE, LEARNING_RATE, arms_of, comparisons_of, value_in_name
from studies.design import Comparison, load_study
from studies.records import RECORD, RunRecord, load_records, record_of_run_directory
from studies.runner import STUDY_COPY
from studies.tuning import TUNING, untuned_arms

OWN_KEYS = frozenset({"env.id", "run.seed"})  # keys in which runs of one arm differ


@dataclass(frozen=True)
class Question:
    """The decisions made before the first run, as far as they are known."""

    text: str
    arms: tuple[str, ...]
    environments: tuple[str, ...]
    seeds: tuple[int, ...]  # in the order in which they were added
    horizons: tuple[int, ...]  # env steps, rising
    comparisons: tuple[Comparison, ...]  # with all candidates named
    studied: frozenset[str]  # config keys in which arms may differ
    tuned: bool  # whether each arm's learning rate was tuned, with equal budgets, on other seeds
    planned: bool  # whether there is a study file
    untuned: tuple[str, ...] = ()  # arms whose tuning is incomplete, or was not used
    at_edge: tuple[str, ...] = ()  # arms whose tuning chose the lowest or highest value it tried


def read_evidence(paths: Sequence[Path]) -> tuple[Question, list[RunRecord]]:
    """The question and the records of a folder of a study's results, or of run directories.

    Raises:
        UsageError: there are no runs, a file is damaged, or the paths mix both kinds.
    """
    runs = [path for path in paths if RunDirectory(path).config.is_file()]
    if runs and len(runs) < len(paths):
        other = next(path for path in paths if path not in runs)
        raise UsageError(f"{other} is no run directory, as others are: report a study's results, or run directories")
    if runs:
        records = _records_of_runs(runs)
        return question_of_records(records), records
    records = [record for path in paths for record in load_records(path)]
    if not records:
        raise UsageError(
            f"{', '.join(map(str, paths))} holds no runs: no {RECORD} of `sbrl study run`, and no run.yaml of `sbrl train`"
        )
    files = [path / STUDY_COPY for path in paths if (path / STUDY_COPY).is_file()]
    if len(files) == len(paths) == 1:
        return question_of_study(files[0], records), records
    return question_of_records(records), records


def question_of_study(file: Path, records: Sequence[RunRecord]) -> Question:
    """The question of a study file. Raises UsageError like `studies.design.load_study`."""
    study = load_study(file)
    arms = arms_of(study)
    studied = {key for arm in arms for key in arm.settings} | ({study.tuning.key} if study.tuning else set())
    untuned = untuned_arms(study, arms, records)
    return Question(
        text=" ".join(study.question.split()),
        arms=tuple(arm.name for arm in arms),
        environments=study.environments,
        seeds=study.seeds.for_test,
        horizons=study.horizons,
        comparisons=comparisons_of(study, arms),
        studied=frozenset(studied),
        tuned=study.tuning is not None and study.tuning.key == LEARNING_RATE and not untuned,
        planned=True,
        untuned=untuned,
        at_edge=arms_at_edge(file.parent),
    )


def arms_at_edge(results: Path) -> tuple[str, ...]:
    """Arms whose tuning chose a value at the edge, from a folder of results. Raises UsageError if tuning.json is damaged."""
    path = results / TUNING
    if not path.exists():
        return ()
    try:
        choices = json.loads(path.read_text(encoding="utf-8"))
        return tuple(name for name, choice in choices.items() if choice["at_edge"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{path} is damaged: delete it, and `sbrl study run` writes it again") from None


def question_of_records(records: Sequence[RunRecord]) -> Question:
    """The question of unplanned runs: the arm with the largest batch is the baseline, and there is one look, at all seeds."""
    tests = [record for record in records if record.purpose == "test"]
    arms = tuple(dict.fromkeys(record.arm for record in tests))
    scored = [set(record.scores) for record in tests if record.status == "complete"]
    baseline = max(tests, key=lambda record: _batch_size(record), default=None)
    others = tuple(arm for arm in arms if baseline is not None and arm != baseline.arm)
    return Question(
        text=f"What do {len(tests)} runs show?",
        arms=arms,
        environments=tuple(dict.fromkeys(record.environment for record in tests)),
        seeds=tuple(sorted({record.seed for record in tests})),
        horizons=tuple(sorted(set.intersection(*scored))) if scored else (),
        comparisons=(Comparison(baseline=baseline.arm, candidates=others),) if baseline is not None and others else (),
        studied=frozenset({BATCH_SIZE}),
        tuned=False,
        planned=False,
    )


def asked_otherwise(
    question: Question, baseline: str | None, studied: Iterable[str], looks: Sequence[int], smallest_gain: float | None
) -> Question:
    """The question with the command line's choices instead of the planned ones.

    Raises:
        UsageError: an arm does not exist, or looks do not rise.
    """
    comparisons = question.comparisons
    if baseline is not None:
        if baseline not in question.arms:
            known = f"{nearest(baseline, question.arms)}; arms: {', '.join(question.arms)}"
            raise UsageError(f"--baseline {baseline!r} is no arm{known}")
        comparisons = (Comparison(baseline=baseline, candidates=tuple(arm for arm in question.arms if arm != baseline)),)
    if looks and (list(looks) != sorted(set(looks)) or looks[0] < 5):
        raise UsageError(f"--looks {','.join(map(str, looks))} must rise, from 5 seeds on")
    changes: dict[str, object] = {"looks": tuple(looks)} if looks else {}
    if smallest_gain is not None:
        changes["smallest_gain"] = smallest_gain
    return replace(
        question,
        comparisons=tuple(one.model_copy(update=changes) for one in comparisons),
        studied=question.studied | frozenset(studied),
    )


def own_settings(record: RunRecord) -> dict[str, str]:
    """A run's settings without seed and environment, as text, so that they can be compared and sorted."""
    return {key: json.dumps(value, sort_keys=True) for key, value in record.settings.items() if key not in OWN_KEYS}


def _records_of_runs(runs: Sequence[Path]) -> list[RunRecord]:
    """Runs as records, each with its arm's name, scored at the end of the shortest run and half-way to it."""
    env_steps = min(configs.load(RunDirectory(run).config).run.env_steps for run in runs)
    horizons = (env_steps // 2, env_steps) if env_steps > 1 else (env_steps,)
    records = [record_of_run_directory(run, horizons=horizons) for run in runs]
    settings = [own_settings(record) for record in records]
    differing = {key for one in settings for key in one if len({other.get(key) for other in settings}) > 1}
    return [replace(record, arm=_name(record, differing)) for record in records]


def _name(record: RunRecord, keys: Iterable[str]) -> str:
    """A short name from the keys that distinguish a run: batch_size=8 n_step=3."""
    words = (f"{key.rpartition('.')[2]}={value_in_name(record.settings.get(key))}" for key in sorted(keys))
    return " ".join(words) or "all runs"


def _batch_size(record: RunRecord) -> float:
    value = record.settings.get(BATCH_SIZE)
    return float(value) if isinstance(value, int | float) else 0.0
