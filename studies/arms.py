"""Expands a study's arms into runs, each with its whole config, before anything is run."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sbrl import config as configs
from sbrl.config import Config, serial_config
from sbrl.config.agents import find_preset
from sbrl.errors import UsageError, nearest, plain, shown
from studies.design import BY_BATCH, ArmSpec, Axis, Comparison, Settings, Study
from studies.records import Purpose, folder_of, hash_of, name_of_folder

BETA2 = "learner.adam_beta2"
BATCH_SIZE = "learner.batch_size"
LEARNING_RATE = "learner.learning_rate"
UPDATES_PER_STEP = "learner.updates_per_step"
# Counted in updates. Kept constant in env steps if an arm makes more or fewer updates per step.
PERIODS = (
    "learner.target_update_period",
    "learner.publish_period",
    "learner.reset_period",
    "learner.diagnostics_period",
    "agent.anneal_updates",
)
TARGET_RATE = "learner.target_update_rate"


class Arm(NamedTuple):
    """One arm, with everything that differs from the study's own settings."""

    name: str
    settings: Settings  # by dotted key


class Variant(NamedTuple):
    """A value that an arm's tuning tries."""

    name: str  # learner.learning_rate=0.0001
    key: str
    value: float
    factor: float  # times the arm's own value


class PlannedRun(NamedTuple):
    """One run of a study."""

    arm: str
    environment: str
    seed: int
    purpose: Purpose
    variant: str  # the Variant's name; empty for a test run
    config: Config

    @property
    def folder(self) -> Path:
        """Its folder within the results."""
        return folder_of(self.arm, self.variant, self.environment, self.seed)

    @property
    def name(self) -> str:
        return str(self.folder)

    @property
    def hash(self) -> str:
        return hash_of(self.config)

    @property
    def updates(self) -> int:
        """Number of updates that it makes, to half a batch."""
        learner = self.config.learner
        return round((self.config.run.env_steps - self.config.min_replay_size) * learner.updates_per_step)


def arms_of(study: Study) -> tuple[Arm, ...]:
    """All arms in the order of the file, with grids and axes unfolded, and `by batch` and periods resolved.

    Raises:
        UsageError: no run takes a key or value, two arms have the same name or settings, or an arm sets a key that an axis
            decides.
    """
    base = _config(study, {}, study.environments[0], seed=0)
    arms = [arm for spec in study.arms for named in _unfold(spec) for arm in _on_axes(named, spec.axes or study.axes, base)]
    arms = [Arm(arm.name, _resolve(study, arm, base)) for arm in arms]
    seen: dict[str, str] = {}
    for arm in arms:
        settings = repr(config_of(study, arm, study.environments[0], seed=0))
        for key, what in ((name_of_folder(arm.name), "name"), (settings, "settings")):
            if key in seen:
                raise UsageError(f"arms {seen[key]!r} and {arm.name!r} have the same {what}: {_REMEDIES[what]}")
            seen[key] = arm.name
    return tuple(arms)


_REMEDIES = {
    "name": "give each another, in letters and digits",
    "settings": "the same runs would count as two arms; leave one out",
}


def comparisons_of(study: Study, arms: Sequence[Arm]) -> tuple[Comparison, ...]:
    """The study's comparisons, with all candidates named.

    Raises:
        UsageError: an arm does not exist, or is compared with itself.
    """
    names = [arm.name for arm in arms]
    for comparison in study.comparisons:
        for name in (comparison.baseline, *comparison.candidates):
            if name not in names:
                raise UsageError(f"comparisons names the arm {name!r}{nearest(name, names)}; arms: {', '.join(names)}")
        if comparison.baseline in comparison.candidates:
            raise UsageError(f"comparisons holds the arm {comparison.baseline!r} against itself: leave it out of candidates")
    return tuple(
        one.model_copy(update={"candidates": one.candidates or tuple(name for name in names if name != one.baseline)})
        for one in study.comparisons
    )


def config_of(study: Study, arm: Arm, environment: str, seed: int) -> Config:
    """The config of a run of an arm, as it will be recorded.

    Raises:
        UsageError: no run takes a key or value. The message names the arm.
    """
    try:
        config = _config(study, arm.settings, environment, seed)
    except UsageError as error:
        raise UsageError(f"study {study.name}, arm {arm.name!r}: {error}") from None
    if study.run_as == "one process":
        return serial_config(config)
    if config.actors.num_actors is None:
        raise UsageError(
            f"study {study.name}: actors.num_actors is unset, and would follow from the machine's cores: set it in settings, "
            f"so that runs on two machines are of one study"
        )
    return config


def variants_of(study: Study, arm: Arm) -> tuple[Variant, ...]:
    """The values that the arm's tuning tries, in the order of the factors; empty without tuning.

    Raises:
        UsageError: the key does not exist, is not a number, or is one that axes and periods depend on.
    """
    if study.tuning is None:
        return ()
    key = study.tuning.key
    if key in (BATCH_SIZE, UPDATES_PER_STEP):
        raise UsageError(f"study {study.name}: tuning.key is {key}, on which axes and periods depend: make it a grid of arms")
    own = value_of(config_of(study, arm, study.environments[0], seed=0), key)
    if isinstance(own, bool) or not isinstance(own, int | float):
        raise UsageError(
            f"study {study.name}: tuning.key is {key}, which is {shown(own)}: only a number can be tuned by factors"
        )
    variants = []
    for factor in study.tuning.factors:
        value = type(own)(float(f"{own * factor:.6g}"))  # rounded, as people would write it
        variants.append(Variant(f"{key}={plain(value)}", key, value, factor))
    return tuple(variants)


def tuning_runs(study: Study, arms: Iterable[Arm]) -> list[PlannedRun]:
    """All runs that choose the arms' settings. Raises UsageError like `config_of` and `variants_of`."""
    return [
        PlannedRun(
            arm.name, environment, seed, "tune", variant.name, config_of(study, with_variant(arm, variant), environment, seed)
        )
        for seed in study.seeds.for_tuning
        for environment in study.tuned_on
        for arm in arms
        for variant in variants_of(study, arm)
    ]


def compared_runs(study: Study, arms: Iterable[Arm], chosen: Mapping[str, Variant]) -> list[PlannedRun]:
    """All runs that are compared, seed by seed, so that an interrupted study has complete pairs.

    Args:
        chosen: by arm, the variant that its tuning chose. An arm without one keeps its own value.

    Raises:
        UsageError: like `config_of`.
    """
    tuned = [with_variant(arm, chosen[arm.name]) if arm.name in chosen else arm for arm in arms]
    return [
        PlannedRun(arm.name, environment, seed, "test", "", config_of(study, arm, environment, seed))
        for seed in study.seeds.for_test
        for environment in study.environments
        for arm in tuned
    ]


def with_variant(arm: Arm, variant: Variant) -> Arm:
    """The arm with a tuned value."""
    return Arm(arm.name, {**arm.settings, variant.key: variant.value})


def value_of(config: Config, key: str) -> Any:
    """The value of a dotted key. Raises UsageError if the key does not exist."""
    section, _, name = key.partition(".")
    found: Any = getattr(config, section, None)
    if not name or name not in getattr(type(found), "model_fields", {}):
        raise UsageError(f"there is no config key {shown(key)}; `sbrl config schema` lists them all")
    return getattr(found, name)


def _config(study: Study, settings: Settings, environment: str, seed: int) -> Config:
    own: Settings = {"env.id": environment, "run.env_steps": study.env_steps, "run.seed": seed}
    parts = (*study.settings.items(), *settings.items(), *own.items())
    return configs.build(find_preset(study.preset).settings, *(_nested(key, value) for key, value in parts))


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def _unfold(spec: ArmSpec) -> Iterator[Arm]:
    for values in itertools.product(*spec.grid.values()):
        chosen = dict(zip(spec.grid, values, strict=True))
        words = ([spec.name] if spec.name else []) + [
            f"{key.rpartition('.')[2]}={value_in_name(value)}" for key, value in chosen.items()
        ]
        yield Arm(" ".join(words), {**spec.settings, **chosen})


def value_in_name(value: object) -> str:
    """A setting's value as part of an arm's name."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value).lower()
    return plain(value)


def _on_axes(arm: Arm, axes: Sequence[Axis], base: Config) -> Iterator[Arm]:
    """The arm on each axis. An arm with the study's own batch size is the same on both."""
    batch_size = arm.settings.get(BATCH_SIZE, base.learner.batch_size)
    for axis in axes:
        if axis == "fixed updates per step" or (batch_size == base.learner.batch_size and len(axes) == 1):
            yield arm
        elif batch_size != base.learner.batch_size:
            if UPDATES_PER_STEP in arm.settings:
                raise UsageError(
                    f"arm {arm.name!r} sets {UPDATES_PER_STEP}, which the axis '{axis}' decides: leave it out, or give the arm "
                    f"axes: [fixed updates per step]"
                )
            if not isinstance(batch_size, int) or batch_size < 1:
                raise UsageError(f"arm {arm.name!r}: {BATCH_SIZE}={shown(batch_size)} must be a whole number from 1 on")
            name = arm.name if len(axes) == 1 else f"{arm.name}, {axis}"
            yield Arm(name, {**arm.settings, UPDATES_PER_STEP: base.samples_per_insert / batch_size})


def _resolve(study: Study, arm: Arm, base: Config) -> Settings:
    """The arm's settings with `by batch` and periods as numbers."""
    settings = dict(arm.settings)
    by_batch = settings.get(BETA2) == BY_BATCH
    if by_batch:
        del settings[BETA2]
    learner = config_of(study, Arm(arm.name, settings), study.environments[0], seed=0).learner
    if by_batch:
        settings[BETA2] = base.learner.adam_beta2 ** (learner.batch_size / base.learner.batch_size)
    if study.periods == "env steps":
        held = held_periods(base, learner.updates_per_step / base.learner.updates_per_step)
        settings = {**held, **settings}  # the arm's own settings take precedence
    return settings


def held_periods(base: Config, factor: float) -> Settings:
    """Periods, counted in updates, that stay as long in env steps as in `base` at `factor` times its updates per step.

    A moving average (target_update_rate below 1) keeps its period and gets the rate 1 - (1 - rate) ** (1 / factor). So the same
    share is left after the same number of env steps.
    """
    if factor == 1:
        return {}
    held: Settings = {}
    for key in PERIODS:
        period = value_of(base, key)
        if period is not None and (key != "learner.target_update_period" or base.learner.target_update_rate == 1):
            held[key] = max(1, round(period * factor))
    if base.learner.target_update_rate < 1:
        held[TARGET_RATE] = 1 - (1 - base.learner.target_update_rate) ** (1 / factor)
    return held
