"""The search space: from a study's `search` to Optuna's suggestions, and back to settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import optuna

from sbrl.config import Learner
from sbrl.errors import UsageError, shown
from studies.arms import BATCH_SIZE, BETA2, LEARNING_RATE, UPDATES_PER_STEP, Arm, config_of, value_of
from studies.design import BY_BATCH, GIVEN_BY_STUDY, Between, Settings, Study

EDGE = 0.05  # as a fraction of a range's width on its log scale


class Choices(NamedTuple):
    """One value of a list."""

    values: tuple[bool | int | float | str | None, ...]


class Range(NamedTuple):
    """A log-uniform number. For beta2, the range is of 1 - beta2, because its memory is 1 / (1 - beta2) updates."""

    low: float
    high: float


Space = Mapping[str, Choices | Range]


def space_of(study: Study) -> Space:
    """The search space around the study's own settings.

    Raises:
        UsageError: no run takes a key or value, or another part of the study sets it.
    """
    base = config_of(study, Arm("of the search", {}), study.environments[0], seed=0)
    space = _given(study) if study.search.space else _default(base.learner)
    for key in space:
        if key in GIVEN_BY_STUDY:
            raise UsageError(f"study {study.name}: search.space has {key}, which the study gives by its {GIVEN_BY_STUDY[key]}")
        value_of(base, key)
    for key, part in space.items():
        ends = part.values if isinstance(part, Choices) else (_number(key, part.low), _number(key, part.high))
        for value in ends:
            config_of(study, Arm("of the search", {key: value}), study.environments[0], seed=0)
    return space


def ask(space: Space, trial: optuna.trial.Trial) -> Settings:
    """A trial's settings: Optuna's suggestions in the form of a study file."""
    suggested: Settings = {}
    for key, part in space.items():
        if isinstance(part, Choices):
            suggested[key] = trial.suggest_categorical(key, part.values)
        else:
            suggested[key] = _number(key, trial.suggest_float(key, part.low, part.high, log=True))
    return suggested


def at_edges(space: Space, settings: Mapping[str, object]) -> list[str]:
    """The keys with a value at the edge of the search space: a better value may lie beyond."""
    found = []
    for key, part in space.items():
        value = settings[key]
        if isinstance(part, Choices):
            numbers = [one for one in part.values if isinstance(one, int | float) and not isinstance(one, bool)]
            is_edge = len(numbers) == len(part.values) > 1 and value in (min(numbers), max(numbers))
        else:
            assert isinstance(value, float)
            number, width = (1 - value if key == BETA2 else value), (part.high / part.low) ** EDGE
            is_edge = not part.low * width < number < part.high / width
        if is_edge:
            found.append(key)
    return found


def _number(key: str, drawn: float) -> float:
    """The config's value for a number drawn from a range, rounded to three digits."""
    rounded = float(f"{drawn:.3g}")
    return float(f"{1 - rounded:.8g}") if key == BETA2 else rounded


def _given(study: Study) -> Space:
    space: dict[str, Choices | Range] = {}
    for key, part in study.search.space.items():
        if isinstance(part, Between):
            space[key] = Range(part.low, part.high)
        elif key == BETA2 and BY_BATCH in part:
            raise UsageError(f"study {study.name}: search.space has {key}: {BY_BATCH}, which is for arms; give it numbers")
        else:
            space[key] = Choices(tuple(_plain(study, key, value) for value in part))
    return space


def _plain(study: Study, key: str, value: object) -> bool | int | float | str | None:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UsageError(
        f"study {study.name}: search.space has {key}: {shown(value)}, and a value must be a number, a word or a flag"
    )


def _default(learner: Learner) -> Space:
    batches: Sequence[int] = sorted({max(1, round(learner.batch_size * factor)) for factor in (0.25, 0.5, 1, 2)})
    return {
        BATCH_SIZE: Choices(tuple(batches)),
        LEARNING_RATE: Range(learner.learning_rate / 8, learner.learning_rate * 8),
        BETA2: Range(1e-4, 1e-1),
        UPDATES_PER_STEP: Choices(tuple(learner.updates_per_step * factor for factor in (0.5, 1, 2))),
    }
