"""The study file: arms, comparisons, environments, seeds and horizons. `sbrl study schema` prints its schema.

Field docstrings are the reference, as in `sbrl.config.sections`. `studies.arms` expands the arms.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import Field, JsonValue, ValidationError, model_validator

from sbrl.config.agents import all_presets
from sbrl.config.base import Section
from sbrl.config.errors import explain
from sbrl.config.presets import DEFAULT_PRESET, PRESETS
from sbrl.errors import UsageError, nearest, shown
from sbrl.yaml_text import read_yaml_text
from studies.records import ScoreKind

LIBRARY = Path(__file__).parent / "library"
TUNE_SEEDS_FROM = 1_000  # the first tuning seed if only their number is given; test seeds start at 0
GIVEN_BY_STUDY = {"run.env_steps": "horizons", "run.seed": "seeds", "env.id": "environments"}
BY_BATCH = "by batch"  # a value of learner.adam_beta2: see `studies.arms`

Axis = Literal["fixed updates per step", "fixed samples per insert"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ,._=+-]*$", max_length=80)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Settings = dict[str, JsonValue]


class Seeds(Section):
    """Seeds, the unit of replication: a number of them, or a list."""

    test: Annotated[int, Field(ge=0, le=1000)] | tuple[Seed, ...] = 5
    """Seeds of the compared runs. Every arm has the same ones, so that differences are paired by seed. A number N means 0 to
    N - 1."""
    tune: Annotated[int, Field(ge=0, le=1000)] | tuple[Seed, ...] = 0
    """Seeds of the runs that choose a setting. None may be a test seed, because a setting looks better on the seeds that it was
    chosen on. A number N means 1000 to 999 + N."""

    @property
    def for_test(self) -> tuple[int, ...]:
        return tuple(range(self.test)) if isinstance(self.test, int) else self.test

    @property
    def for_tuning(self) -> tuple[int, ...]:
        return tuple(range(TUNE_SEEDS_FROM, TUNE_SEEDS_FROM + self.tune)) if isinstance(self.tune, int) else self.tune

    @model_validator(mode="after")
    def _are_seeds(self) -> Seeds:
        for name, given, seeds in (("test", self.test, self.for_test), ("tune", self.tune, self.for_tuning)):
            if len(seeds) < (name == "test"):
                raise ValueError(f"seeds.{name} is {shown(given)}: a study needs one at least, and five to say how sure it is")
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"seeds.{name} names a seed twice: the same run would count as two; give each once")
        shared = set(self.for_test) & set(self.for_tuning)
        if shared:
            raise ValueError(
                f"seed {min(shared)} is both a test and a tuning seed: what is chosen on a seed looks better on it than it is; "
                f"give seeds.tune others"
            )
        return self


class ArmSpec(Section):
    """One arm, or a grid of them: settings on top of the study's."""

    name: Name | None = None
    """The arm's name. Required unless there is a grid: a grid names its arms by their values (batch_size=8 n_step=3) and puts
    this name before them."""
    settings: Settings = Field({})
    """Any config keys, dotted: learner.batch_size: 8. learner.adam_beta2 may be `by batch`: beta2 ** (B' / B), where B is the
    batch of the study's own settings. So Adam's second moment remembers the same number of samples."""
    grid: dict[str, Annotated[list[JsonValue], Field(min_length=1)]] = Field({})
    """Config keys, each with a list of values: an arm for every combination."""
    axes: tuple[Axis, ...] | None = Field(None, min_length=1)
    """Replaces the study's axes."""

    @model_validator(mode="after")
    def _has_a_name(self) -> ArmSpec:
        if self.name is None and not self.grid:
            raise ValueError(
                f"an arm with settings {shown(self.settings)} has no name: give it one, or a grid, which names its own"
            )
        twice = sorted(set(self.settings) & set(self.grid))
        if twice:
            raise ValueError(f"arm {self.name or 'of a grid'} has {twice[0]} in its settings and in its grid: leave one out")
        return self


class Comparison(Section):
    """Which arms are compared with which."""

    baseline: str
    """The arm that stays unless another one is shown to be better."""
    candidates: tuple[str, ...] = ()
    """Arms that could replace it. If none are named: all others."""
    looks: tuple[Annotated[int, Field(ge=5)], ...] = ()
    """Numbers of test seeds at which the comparison may be decided, rising; the last is the number of all seeds. The study may
    stop at the first look that decides. None: one look, when all seeds are in. Write looks down before the first run: each
    spends a part of the 5 % (`studies.verdict`)."""
    smallest_gain: float = Field(0.05, ge=0, lt=10)
    """The smallest gain worth having, as a share of the baseline's IQM. If a larger gain is excluded, the baseline stays."""


class Tuning(Section):
    """A setting that each arm chooses on the tuning seeds before its test, with equally many runs for every arm."""

    key: str = "learner.learning_rate"
    """The config key that is tuned."""
    factors: tuple[Annotated[float, Field(gt=0)], ...] = Field((0.25, 0.5, 1.0, 2.0), min_length=2)
    """Factors for the arm's own value. Each is tried on every environment with every tuning seed."""
    environments: tuple[str, ...] = ()
    """The study's environments to tune on, to save time. The chosen value applies to all. If none are named: all."""


class Between(Section):
    """A range of numbers on a log scale."""

    low: float = Field(gt=0)
    high: float = Field(gt=0)

    @model_validator(mode="after")
    def _rises(self) -> Between:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low:g} and high {self.high:g}: low must be below high")
        return self


class Search(Section):
    """What `sbrl tune` searches jointly, on the tuning seeds."""

    space: dict[str, Between | Annotated[list[JsonValue], Field(min_length=1)]] = Field({})
    """Config keys, each with a list of values, or with `low` and `high` of a range on a log scale (learner.adam_beta2: of
    1 - beta2). None: batch size {1/4, 1/2, 1, 2} and updates per step {1/2, 1, 2} times the study's own, its learning rate by
    up to 8 either way, and beta2 from 0.9 to 0.9999."""
    objective: Literal["mean", "median"] = "mean"
    """Mean or median over seeds of a trial's scores at the last horizon, as `scales.csv` scales them."""
    sampler: Literal["tpe", "random"] = "tpe"
    """Optuna's sampler: chooses the next trial from earlier results (tpe) or at random."""
    pruner: Literal["median", "none"] = "median"
    """Optuna's pruner. median: stops a trial whose first seeds do worse than the median of earlier trials. none: every trial
    gets all seeds."""


class Study(Section):
    """A study file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=60)
    """Name of the study, and of its default folders for runs and results."""
    question: str = Field(min_length=1)
    """The question that the study answers, in one sentence: the title of its report."""
    preset: str = DEFAULT_PRESET
    """Settings to start from: see `sbrl presets`."""
    settings: Settings = Field({})
    """Config keys of all arms, dotted, on top of the preset."""
    run_as: Literal["one process", "all roles"] = "one process"
    """one process: each run is `sbrl train --serial`: bit-reproducible, on one core, and faster with small networks. If it is
    interrupted, it starts again. all roles: each run is `sbrl train`, with shards and actors. If it is interrupted, it
    resumes."""
    environments: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    """Gymnasium ids; every arm is run on each."""
    seeds: Seeds = Seeds()
    horizons: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    """Env steps at which arms are compared, rising; the last is the length of a run. Optima shift with the horizon, so a
    verdict needs two or more."""
    score: ScoreKind = "training"
    """training: the mean return of the last 100 training episodes by the horizon. evaluation: the mean return of the evaluation
    protocol at the horizon."""
    axes: tuple[Axis, ...] = Field(("fixed updates per step",), min_length=1)
    """What stays constant while the batch size changes. fixed updates per step: the same number of updates, of fewer samples.
    fixed samples per insert: updates per step x batch size as in the study's own settings, so more updates. With both, an arm
    with another batch size than the study's becomes two arms."""
    periods: Literal["env steps", "updates"] = "env steps"
    """Which periods stay constant if an arm makes more or fewer updates per step than the study's own settings. env steps: the
    periods of target network, publications, resets, annealing and diagnostics stay constant in env steps (as Dopamine counts),
    so their numbers of updates are scaled; a moving average's rate is adjusted. updates: nothing is changed."""
    arms: tuple[ArmSpec, ...] = Field(min_length=1)
    comparisons: tuple[Comparison, ...] = ()
    """The comparisons that get a verdict; none if a study only maps a grid."""
    tuning: Tuning | None = None
    search: Search = Search()
    """Settings of `sbrl tune`; `sbrl study run` does not read them."""
    budget_core_hours: float | None = Field(None, gt=0)
    """The study's budget. `sbrl study plan` says whether the study keeps to it."""
    spread: float | None = Field(None, gt=0)
    """Standard deviation of a score over seeds as a share of its mean, known or guessed. Without results, the plan computes the
    detectable difference from it."""

    @model_validator(mode="after")
    def _fits_together(self) -> Study:
        if self.preset not in PRESETS and self.preset not in (presets := all_presets()):
            raise ValueError(f"preset={self.preset!r} is unknown{nearest(self.preset, presets)}; `sbrl presets` lists them all")
        if list(self.horizons) != sorted(set(self.horizons)):
            raise ValueError(f"horizons is {list(self.horizons)}: they must rise, for the last is how long a run is")
        if len(set(self.environments)) < len(self.environments):
            raise ValueError("environments names one twice: its runs would count double; give each once")
        if self.score == "evaluation" and self.run_as == "one process" and len(self.horizons) > 1:
            raise ValueError(
                f"score is evaluation with {len(self.horizons)} horizons, but a run in one process evaluates its final agent "
                f"only: set score: training, one horizon, or run_as: all roles"
            )
        for looks in (one.looks for one in self.comparisons if one.looks):
            if list(looks) != sorted(set(looks)) or looks[-1] != len(self.seeds.for_test):
                raise ValueError(
                    f"comparisons has looks at {list(looks)} seeds: they must rise, and the last must be all "
                    f"{len(self.seeds.for_test)} test seeds"
                )
        if self.tuning is not None and not self.seeds.for_tuning:
            raise ValueError("there is a tuning, but seeds.tune has no seed for it: set seeds.tune to 3 or so")
        if self.tuning is None and self.seeds.for_tuning and "search" not in self.model_fields_set:
            raise ValueError(
                f"seeds.tune is {shown(self.seeds.tune)}, but there is no tuning or search that they are for; leave it out"
            )
        if self.tuning is not None and not set(self.tuning.environments) <= set(self.environments):
            other = next(one for one in self.tuning.environments if one not in self.environments)
            raise ValueError(
                f"tuning.environments names {other!r}{nearest(other, self.environments)}: tune on some of the study's own"
            )
        self._refuse_given_keys()
        return self

    def _refuse_given_keys(self) -> None:
        tuned = [self.tuning.key] if self.tuning else []
        for place in (self.settings, *(part for arm in self.arms for part in (arm.settings, arm.grid)), tuned):
            for key, part in GIVEN_BY_STUDY.items():
                if key in place:
                    raise ValueError(f"{key} is set, which the study gives each run by its {part}: leave it out")

    @property
    def tuned_on(self) -> tuple[str, ...]:
        """The environments of tuning runs; none without tuning."""
        return () if self.tuning is None else self.tuning.environments or self.environments

    @property
    def env_steps(self) -> int:
        """The length of a run."""
        return self.horizons[-1]


class ListedStudy(NamedTuple):
    """A ready study."""

    name: str
    path: Path
    question: str


def load_study(source: str | Path) -> Study:
    """Reads a study file, or a ready study by its name.

    Raises:
        UsageError: there is none, or it is not a YAML mapping; otherwise one line for each error in it.
    """
    path = find_study(source)
    try:
        tree = read_yaml_text(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read study {path}: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"study {path} is not valid YAML: {' '.join(str(error).split())}") from None
    return parse_study(tree, str(path))


def parse_study(tree: Any, name: str) -> Study:
    """The study in a YAML tree. Args: name: of its source, for messages. Raises UsageError like `load_study`."""
    if not isinstance(tree, dict):
        raise UsageError(f"study {name} must be a mapping such as 'name: pilot', not a {type(tree).__name__}")
    try:
        return Study.model_validate(tree)
    except ValidationError as error:
        raise UsageError(f"study {name}: {explain(error, Study, '`sbrl study schema`')}") from None


def find_study(source: str | Path) -> Path:
    """The path of a study file or of a ready study. Raises UsageError if there is neither."""
    path = Path(source)
    if path.exists():
        return path
    ready = {listed.name: listed.path for listed in list_library()}
    if str(source) in ready:
        return ready[str(source)]
    raise UsageError(f"there is no study file {path}{nearest(str(source), ready)}; ready ones: {', '.join(ready)}")


def list_library() -> list[ListedStudy]:
    """The ready studies, sorted by name."""
    return [
        ListedStudy(path.stem, path, " ".join(read_yaml_text(path.read_text(encoding="utf-8"))["question"].split()))
        for path in sorted(LIBRARY.glob("*.yaml"))
    ]


def json_schema() -> str:
    """The JSON schema (draft 2020-12) of a study file, with every field's default, bounds and description."""
    return json.dumps(Study.model_json_schema(), indent=2)
