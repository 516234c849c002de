"""The study file: what is compared with what, on which environments, seeds and horizons. `sbrl study schema` prints its schema.

Field docstrings are the reference, as in `sbrl.config.sections`. What the arms come to is in `studies.arms`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import Field, JsonValue, ValidationError, model_validator

from sbrl.config.agents import all_presets
from sbrl.config.errors import explain
from sbrl.config.presets import DEFAULT_PRESET, PRESETS
from sbrl.config.sections import Section
from sbrl.errors import UsageError, nearest, shown
from sbrl.yaml_text import read_yaml_text
from studies.records import ScoreKind

LIBRARY = Path(__file__).parent / "library"
TUNE_SEEDS_FROM = 1_000  # where seeds that are given by their number begin; those of tests begin at 0
GIVEN_BY_STUDY = {"run.env_steps": "horizons", "run.seed": "seeds", "env.id": "environments"}
BY_BATCH = "by batch"  # as a value of learner.adam_beta2: see `studies.arms`

Axis = Literal["fixed updates per step", "fixed samples per insert"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ,._=+-]*$", max_length=80)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Settings = dict[str, JsonValue]


class Seeds(Section):
    """Seeds are the unit of replication: a number of them, or a list."""

    test: Annotated[int, Field(ge=0, le=1000)] | tuple[Seed, ...] = 5
    """Of the runs that are compared; every arm has the same ones, so that differences are paired by seed. A number N means 0 to
    N - 1."""
    tune: Annotated[int, Field(ge=0, le=1000)] | tuple[Seed, ...] = 0
    """Of the runs that choose a setting, none of which may be a test seed: what was chosen on a seed looks better on it. A
    number N means 1000 to 999 + N."""

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
    """What the arm is called; needed unless there is a grid, which names its arms by their values (batch_size=8 n_step=3) and
    puts this before."""
    settings: Settings = Field({})
    """Any config keys, dotted: learner.batch_size: 8. learner.adam_beta2 may be `by batch`: beta2 ** (B' / B) with B the
    batch of the study's own settings, so that Adam's second moment remembers as many samples."""
    grid: dict[str, Annotated[list[JsonValue], Field(min_length=1)]] = Field({})
    """Config keys, each with a list of values: an arm for every combination."""
    axes: tuple[Axis, ...] | None = Field(None, min_length=1)
    """In place of the study's axes."""

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
    """Which arms are held against which."""

    baseline: str
    """The arm that stays unless another is shown to be better."""
    candidates: tuple[str, ...] = ()
    """Arms that could take its place; none named: all others."""
    looks: tuple[Annotated[int, Field(ge=5)], ...] = ()
    """Numbers of test seeds at which it may be decided, rising, the last all of them: the study may stop at the first that
    decides. None: one look, when all seeds are in. Looks are to be written down before the first run; each spends a part of the
    5 % (`studies.verdict`)."""
    smallest_gain: float = Field(0.05, ge=0, lt=10)
    """The smallest gain worth having, as a share of the baseline's IQM: where a larger one is excluded, the baseline stays."""


class Tuning(Section):
    """A setting that each arm chooses for itself before it is tested, on the tuning seeds: for each arm as many runs."""

    key: str = "learner.learning_rate"
    """The config key that is tuned."""
    factors: tuple[Annotated[float, Field(gt=0)], ...] = Field((0.25, 0.5, 1.0, 2.0), min_length=2)
    """What the arm's own value is multiplied by; each is tried on every environment with every tuning seed."""
    environments: tuple[str, ...] = ()
    """Those of the study's that are tuned on, to save; the value that is chosen holds on all. None named: all."""


class Between(Section):
    """Numbers between two, on a log scale."""

    low: float = Field(gt=0)
    high: float = Field(gt=0)

    @model_validator(mode="after")
    def _rises(self) -> Between:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low:g} and high {self.high:g}: low must be below high")
        return self


class Search(Section):
    """What `sbrl tune` looks through, jointly, on the tuning seeds."""

    space: dict[str, Between | Annotated[list[JsonValue], Field(min_length=1)]] = Field({})
    """Config keys, each with a list of values, or with the `low` and `high` of numbers on a log scale (learner.adam_beta2: of
    1 - beta2). None: batch size {1/4, 1/2, 1, 2} and updates per step {1/2, 1, 2} times the study's own, its learning rate by
    up to 8 either way, and beta2 from 0.9 to 0.9999."""
    objective: Literal["mean", "median"] = "mean"
    """Of a trial's scores over seeds and environments, at the last horizon; scores as `scales.csv` scales them."""
    sampler: Literal["tpe", "random"] = "tpe"
    """Optuna's: what it has learned decides what is tried next, or chance does."""
    pruner: Literal["median", "none"] = "median"
    """Optuna's: a trial whose first seeds do worse than the median of those before gets no further ones; none: all get all."""


class Study(Section):
    """A study file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=60)
    """Of the folders that its runs and results lie in by default."""
    question: str = Field(min_length=1)
    """What the study is to answer, in a sentence: the head of its report."""
    preset: str = DEFAULT_PRESET
    """Settings to start from: see `sbrl presets`."""
    settings: Settings = Field({})
    """Config keys of all arms, dotted, on top of the preset."""
    run_as: Literal["one process", "all roles"] = "one process"
    """one process: each run is `sbrl train --serial`, bit-reproducible, on one core, and faster where networks are small; one
    that is interrupted starts again. all roles: each run is `sbrl train`, with its shards and actors, and is resumed."""
    environments: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    """Gymnasium ids; every arm is run on each."""
    seeds: Seeds = Seeds()
    horizons: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    """Env steps at which arms are compared, rising; the last is how long a run is. Optima shift with the horizon, so a verdict
    needs two or more."""
    score: ScoreKind = "training"
    """training: the mean return of the last 100 training episodes by the horizon. evaluation: that of the evaluation protocol
    at the horizon."""
    axes: tuple[Axis, ...] = Field(("fixed updates per step",), min_length=1)
    """What is held while the batch size changes. fixed updates per step: as many updates, of fewer samples. fixed samples per
    insert: updates per step x batch size as in the study's own settings, so more updates. With both, an arm whose batch size is
    another than the study's is two arms."""
    periods: Literal["env steps", "updates"] = "env steps"
    """What stays as it is where an arm makes more or fewer updates per step than the study's own settings. env steps: the
    target network, publications, resets, annealing and diagnostics follow as often in env steps (as Dopamine counts), so
    their periods in updates are scaled; a moving average's rate is made to fit. updates: none is changed."""
    arms: tuple[ArmSpec, ...] = Field(min_length=1)
    comparisons: tuple[Comparison, ...] = ()
    """What the verdict is about; none where a study only maps out a grid."""
    tuning: Tuning | None = None
    search: Search = Search()
    """Of `sbrl tune`; `sbrl study run` does not read it."""
    budget_core_hours: float | None = Field(None, gt=0)
    """What the study may cost; `sbrl study plan` says whether it does."""
    spread: float | None = Field(None, gt=0)
    """Standard deviation of a score over seeds as a share of its mean, where it is known or guessed: what the plan's detectable
    difference is made of if there are no results yet."""

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
        """The environments of tuning runs; none where there is no tuning."""
        return () if self.tuning is None else self.tuning.environments or self.environments

    @property
    def env_steps(self) -> int:
        """How long a run is."""
        return self.horizons[-1]


class ListedStudy(NamedTuple):
    """A ready study."""

    name: str
    path: Path
    question: str


def load_study(source: str | Path) -> Study:
    """Reads a study file, or a ready study by its name.

    Raises:
        UsageError: there is none, it is no YAML mapping, or a line for each thing wrong.
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
    """The study in a YAML tree. Args: name: of where it is from, for messages. Raises UsageError as `load_study` does."""
    if not isinstance(tree, dict):
        raise UsageError(f"study {name} must be a mapping such as 'name: pilot', not a {type(tree).__name__}")
    try:
        return Study.model_validate(tree)
    except ValidationError as error:
        raise UsageError(f"study {name}: {explain(error, Study, '`sbrl study schema`')}") from None


def find_study(source: str | Path) -> Path:
    """A study file, or that of a ready study. Raises UsageError where there is neither."""
    path = Path(source)
    if path.exists():
        return path
    ready = {listed.name: listed.path for listed in list_library()}
    if str(source) in ready:
        return ready[str(source)]
    raise UsageError(f"there is no study file {path}{nearest(str(source), ready)}; ready ones: {', '.join(ready)}")


def list_library() -> list[ListedStudy]:
    """The ready studies, by name."""
    return [
        ListedStudy(path.stem, path, " ".join(read_yaml_text(path.read_text(encoding="utf-8"))["question"].split()))
        for path in sorted(LIBRARY.glob("*.yaml"))
    ]


def json_schema() -> str:
    """The JSON schema (draft 2020-12) of a study file, with every field's default, bounds and description."""
    return json.dumps(Study.model_json_schema(), indent=2)
