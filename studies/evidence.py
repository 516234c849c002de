"""The runs that answer a question, and the problems with them.

Impossible records are refused. Anything that makes an answer doubtful is a finding: it goes into the report, and a comparison
that it affects adopts nothing. Nothing is filled in or averaged away: a seed counts only if every compared arm has a complete
run of it on every environment.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sbrl.errors import UsageError
from studies.questions import Question, own_settings
from studies.records import RunRecord
from studies.scales import Scale, scale_of
from studies.statistics.aggregates import Floats
from studies.verdict import MIN_SEEDS

SHOWN = 4  # names listed in a message; the rest are counted
SMOOTH = 10  # points of a curve, of 100: a tenth of a run
SPI_TOLERANCE = 0.02  # relative difference of samples per insert between a run and its settings

Place = tuple[str, str, int]  # arm, environment, seed


@dataclass(frozen=True)
class Finding:
    """Something that a reader of the report must know."""

    text: str
    arms: frozenset[str] = frozenset()  # no verdict adopts one of these, or replaces one of these
    withholds: bool = False  # no verdict adopts any arm


@dataclass(frozen=True)
class Evidence:
    """The complete test runs, all records, and the findings."""

    question: Question
    runs: Mapping[Place, RunRecord]
    records: tuple[RunRecord, ...]  # all of them, including tuning and failed runs
    scales: Mapping[str, Scale]  # by environment
    findings: tuple[Finding, ...]

    def whole_seeds(self, arms: Iterable[str]) -> tuple[int, ...]:
        """The seeds of which each of these arms has a complete run on every environment, in the question's order."""
        arms = tuple(arms)
        return tuple(
            seed
            for seed in self.question.seeds
            if all((arm, environment, seed) in self.runs for arm in arms for environment in self.question.environments)
        )

    def scores(self, arm: str, seeds: Sequence[int]) -> Floats:
        """Scores on the environments' scales: float64[H, S, E]."""
        return np.array(
            [
                [
                    [self.scales[name].apply(self.returns(arm, name, [seed], horizon))[0] for name in self.environments]
                    for seed in seeds
                ]
                for horizon in self.question.horizons
            ],
            np.float64,
        ).reshape(len(self.question.horizons), len(seeds), len(self.environments))

    def returns(self, arm: str, environment: str, seeds: Sequence[int], horizon: int) -> Floats:
        """Unscaled scores: float64[S]."""
        return np.array([self.runs[arm, environment, seed].scores[horizon] for seed in seeds], np.float64)

    def curves(self, arm: str, seeds: Sequence[int]) -> tuple[Floats, Floats]:
        """Env steps float64[T] that all runs of all arms have, and unscaled training returns float64[S, E, T]."""
        steps = self._common_steps()
        table = [[dict(self.runs[arm, name, seed].returns) for name in self.environments] for seed in seeds]
        values = [[[curve[step] for step in steps] for curve in row] for row in table]
        return np.array(steps, np.float64), np.array(values, np.float64).reshape(len(seeds), len(self.environments), len(steps))

    def smooth_curves(self, arm: str, seeds: Sequence[int]) -> tuple[Floats, Floats]:
        """The same as means of up to SMOOTH points until each: in a short run, one point is the return of an episode or two."""
        steps, values = self.curves(arm, seeds)
        sums = np.cumsum(np.concatenate([np.zeros((*values.shape[:2], 1)), values], axis=2), axis=2)
        ends = np.arange(1, len(steps) + 1)
        begins = np.maximum(ends - SMOOTH, 0)
        return steps, (sums[:, :, ends] - sums[:, :, begins]) / (ends - begins)

    @property
    def environments(self) -> tuple[str, ...]:
        return self.question.environments

    def _common_steps(self) -> list[int]:
        grids = [{step for step, _ in run.returns} for run in self.runs.values()]
        return sorted(set.intersection(*grids)) if grids else []


def gather(question: Question, records: Sequence[RunRecord]) -> Evidence:
    """
    Raises:
        UsageError: the records cannot be right: a number that is not finite, two runs for one seed, one arm with two settings,
            scores of two kinds, no common horizon, no complete run.
    """
    for record in records:
        _refuse_bad_numbers(record)
    tests = [record for record in records if record.purpose == "test"]
    named = [
        record
        for record in tests
        if record.arm in question.arms and record.environment in question.environments and record.seed in question.seeds
    ]
    _refuse_twins(named)
    _refuse_two_settings(named)
    kinds = sorted({record.score for record in named})
    if len(kinds) > 1:
        raise UsageError(f"scores are of two kinds, {' and '.join(kinds)}: their means are not comparable; report them apart")
    if named and not question.horizons:
        raise UsageError("runs have no horizon in common, so no score of one can be held against another's: report them apart")
    whole = [record for record in named if record.status == "complete" and set(question.horizons) <= set(record.scores)]
    if not whole:
        reasons = sorted({record.reason for record in named if record.reason})
        raise UsageError(f"no test run is complete{f' ({reasons[0]})' if reasons else ''}: there is nothing to report yet")
    runs = {_place(record): record for record in whole}
    findings = [
        *_incomplete(question, named, runs),
        *_strangers(tests, named),
        *_few_seeds(question),
        *_more_than_studied(question, runs),
        *_seeds_of_tuning(records, runs),
        *_untuned(question),
        *_at_edge(question),
        *_mixed(runs),
        *_unequal_curves(runs),
        *_missed_ratio(runs),
    ]
    scales = {
        name: scale_of(name, (score for run in whole if run.environment == name for score in run.scores.values()))
        for name in question.environments
    }
    return Evidence(question, runs, tuple(records), scales, tuple(findings))


def _place(record: RunRecord) -> Place:
    return record.arm, record.environment, record.seed


def _name(place: Place) -> str:
    return f"{place[0]} on {place[1]}, seed {place[2]}"


def _list(names: Iterable[str]) -> str:
    found = list(names)
    return "; ".join(found[:SHOWN]) + (f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else "")


def _refuse_bad_numbers(record: RunRecord) -> None:
    numbers = {
        "a score": record.scores.values(),
        "a training return": [value for _, value in record.returns],
        "an evaluation": [value for _, value in record.evaluations],
    }
    for what, values in numbers.items():
        bad = next((value for value in values if not math.isfinite(value)), None)
        if bad is not None:
            raise UsageError(
                f"run {_name(_place(record))}: {what} is {bad}, so no mean over it has a meaning; find out why, delete its "
                f"folder, and run it again"
            )


def _refuse_twins(records: Sequence[RunRecord]) -> None:
    seen: dict[Place, RunRecord] = {}
    for record in records:
        place = _place(record)
        if place in seen:
            raise UsageError(f"there are two runs of {_name(place)}: one seed would count twice; leave one of them out")
        seen[place] = record


def _refuse_two_settings(records: Sequence[RunRecord]) -> None:
    first: dict[tuple[str, str], RunRecord] = {}
    for record in records:
        other = first.setdefault((record.arm, record.environment), record)
        keys = _differing(own_settings(other), own_settings(record))
        if keys:
            values = f"{other.settings.get(keys[0])} with seed {other.seed}, {record.settings.get(keys[0])} with {record.seed}"
            raise UsageError(
                f"arm {record.arm!r} has two settings of {keys[0]} on {record.environment}: {values}; its seeds would be means "
                f"over both: make them two arms"
            )


def _differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


def _incomplete(question: Question, named: Sequence[RunRecord], runs: Mapping[Place, RunRecord]) -> Iterable[Finding]:
    found = {_place(record): record for record in named}
    wanted = [(arm, name, seed) for arm in question.arms for name in question.environments for seed in question.seeds]
    failed = [place for place in wanted if place in found and found[place].status == "failed"]
    missing = [place for place in wanted if place not in found]
    short = [place for place in wanted if place in found and place not in runs and place not in failed]
    if failed:
        why = _list(f"{_name(place)} ({found[place].reason})" for place in failed)
        yield Finding(
            f"{len(failed)} of {len(wanted)} runs failed: {why}. Whether a run fails may depend on its arm, so nothing is "
            f"concluded from the others.",
            frozenset(place[0] for place in failed),
        )
    if missing:
        yield Finding(f"{len(missing)} of {len(wanted)} runs are missing: {_list(map(_name, missing))}.")
    if short:
        yield Finding(
            f"{len(short)} of {len(wanted)} runs lack a score at a horizon, and count as missing: {_list(map(_name, short))}."
        )


def _strangers(tests: Sequence[RunRecord], named: Sequence[RunRecord]) -> Iterable[Finding]:
    strange = [record for record in tests if record not in named]
    if strange:
        names = _list(_name(_place(one)) for one in strange)
        yield Finding(f"{len(strange)} runs do not belong to the study and are left out: {names}.")


def _few_seeds(question: Question) -> Iterable[Finding]:
    if len(question.seeds) == 1:
        yield Finding(
            "There is one seed only: it says nothing of others, so there is no interval and no verdict.", withholds=True
        )
    elif len(question.seeds) < MIN_SEEDS:
        yield Finding(
            f"There are {len(question.seeds)} seeds; a verdict needs {MIN_SEEDS}: the luck of a few runs looks like an effect.",
            withholds=True,
        )
    if len(question.horizons) < 2:
        yield Finding("There is one horizon only; what is best shifts with it, so a verdict needs two.", withholds=True)


def _more_than_studied(question: Question, runs: Mapping[Place, RunRecord]) -> Iterable[Finding]:
    for comparison in question.comparisons:
        for name in comparison.candidates:
            pairs = [
                (run, runs[comparison.baseline, environment, seed])
                for (arm, environment, seed), run in runs.items()
                if arm == name and (comparison.baseline, environment, seed) in runs
            ]
            keys = {
                key for one, other in pairs for key in _differing(own_settings(one), own_settings(other))
            } - question.studied
            if keys:
                one, other = pairs[0]
                what = _list(f"{key} ({one.settings.get(key)} and {other.settings.get(key)})" for key in sorted(keys))
                yield Finding(
                    f"{name} and {comparison.baseline} differ in more than is studied: {what}. "
                    f"The report cannot tell which of these mattered.",
                    frozenset({name}),
                )


def _seeds_of_tuning(records: Sequence[RunRecord], runs: Mapping[Place, RunRecord]) -> Iterable[Finding]:
    tuned = {(record.environment, record.seed): record.arm for record in records if record.purpose == "tune"}
    shared = sorted({seed for _, environment, seed in runs if (environment, seed) in tuned})
    if shared:
        yield Finding(
            f"Seeds {', '.join(map(str, shared))} served for tuning and testing: what was chosen on a seed looks better on it.",
            withholds=True,
        )


def _untuned(question: Question) -> Iterable[Finding]:
    if question.untuned:
        yield Finding(
            f"The study tunes every arm, but of {_list(question.untuned)} tuning runs are missing or failed, or the tests have "
            f"another value than the tuning chose."
        )


def _at_edge(question: Question) -> Iterable[Finding]:
    if question.at_edge:
        yield Finding(
            f"Tuning chose a value at the edge of what was tried for {_list(question.at_edge)}: a better one may lie beyond."
        )


def _mixed(runs: Mapping[Place, RunRecord]) -> Iterable[Finding]:
    for what, field in (("versions of sbrl", "version"), ("commits", "commit"), ("machines", "hardware")):
        by_arm: dict[str, set[str]] = defaultdict(set)
        for (arm, _, _), run in runs.items():
            by_arm[arm].add(getattr(run, field))
        kinds = sorted(set[str]().union(*by_arm.values()))
        if len(kinds) < 2:
            continue
        text = f"Runs are of {len(kinds)} {what}: {_list(kinds)}."
        if what == "machines":
            yield Finding(f"{text} Their scores are comparable, their costs are not.")
        elif any(own != set(kinds) for own in by_arm.values()):
            yield Finding(f"{text} Not every arm has runs of all: what differs between arms may be theirs.", withholds=True)
        else:
            yield Finding(f"{text} Every arm has runs of all of them.")
    if any(run.commit.endswith("-dirty") for run in runs.values()):
        yield Finding("Runs were made with changes that no commit has (-dirty): they cannot be made again for certain.")


def _unequal_curves(runs: Mapping[Place, RunRecord]) -> Iterable[Finding]:
    grids = {tuple(step for step, _ in run.returns) for run in runs.values()}
    if len(grids) > 1:
        yield Finding("Learning curves are of unequal lengths or grids: they are drawn at the env steps that all of them have.")


def _missed_ratio(runs: Mapping[Place, RunRecord]) -> Iterable[Finding]:
    missed = []
    for place, run in runs.items():
        batch, updates = run.settings.get("learner.batch_size"), run.settings.get("learner.updates_per_step")
        realized = run.counts.samples_per_insert
        if not isinstance(batch, int) or not isinstance(updates, int | float) or realized is None:
            continue
        if abs(realized / (batch * updates) - 1) > SPI_TOLERANCE:
            missed.append(f"{_name(place)} ({realized:.3g} in place of {batch * updates:g})")
    if missed:
        yield Finding(f"Samples per insert are not what the settings ask for: {_list(missed)}.")
