"""A study's record of a run: a folder of a few KB of JSON and CSV, with which another machine can continue.

    RESULTS/<arm>/<environment>/seed-N/record.json      settings, scores, counts, costs, where it was made
                                       returns.csv      env_steps, mean_return: the learning curve
                                       evaluations.csv  env_steps, mean_return
    RESULTS/tuning/<arm>/<variant>/<environment>/seed-N/ the same, for a run that tries a value

`record_of_run_directory` makes a record of any run directory, whether it belongs to a study or not.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sbrl import config as configs
from sbrl.config import Config
from sbrl.config.errors import explain
from sbrl.errors import RunError, UsageError, shown
from sbrl.monitor.summary import read_summary
from sbrl.storage.atomic import write_durably
from sbrl.storage.metadata import metadata_of
from sbrl.storage.run_directory import RunDirectory
from sbrl.storage.tables import read_episodes, read_evaluations
from sbrl.v1.episodes_pb2 import Episode
from studies.traffic import bytes_moved

RECORD = "record.json"
RETURNS, EVALUATIONS = "returns.csv", "evaluations.csv"
TABLES = {"returns": RETURNS, "evaluations": EVALUATIONS}  # fields of a record that are files of their own
COLUMNS = ("env_steps", "mean_return")
RECORD_VERSION = 1
BINS = 100  # points of a learning curve, one for each of these equal parts of run.env_steps
SCORE_EPISODES = 100  # a score is the mean of this many training episodes

Whole = Annotated[int, Field(strict=True, ge=0)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Amount = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0)]
Horizon = Annotated[int, Field(ge=0)]  # JSON has it as text
Points = tuple[tuple[Whole, Number], ...]
Purpose = Literal["test", "tune"]
ScoreKind = Literal["training", "evaluation"]


@dataclass(frozen=True)
class Counts:
    """What a run did."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    env_steps: Whole
    updates: Whole
    samples_trained: Whole
    samples_per_insert: Amount | None  # as measured; None if nothing was trained


@dataclass(frozen=True)
class Costs:
    """The cost of a run, of training alone unless noted; None if not measured."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    wall_seconds: Amount | None
    core_seconds: Amount | None  # CPU time of all processes; for `sbrl train` with the evaluator
    gpu_seconds: Amount | None  # wall-clock seconds during which a GPU was held
    bytes_moved: Amount | None  # payload between processes: see `studies.traffic`


@dataclass(frozen=True)
class RunRecord:
    """One run: one arm, one environment, one seed. A file states every field: none has a default."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    study: str
    arm: str
    environment: str  # env.id
    seed: Whole
    purpose: Purpose  # tune: the run chose a setting, so it must not count as evidence
    settings: dict[str, object]  # every dotted config key with its resolved value, except network.*, which is the machine's
    returns: Points  # (env steps at the end of each of BINS equal parts, mean return of training episodes that ended in it)
    evaluations: Points  # (env steps, mean return of full episodes under the evaluation protocol)
    scores: dict[Horizon, Number]  # horizon in env steps -> score, see `score_at`
    config_hash: str  # see `hash_of`
    version: str  # of sbrl
    commit: str  # of the checkout, with -dirty if it had changes
    hardware: str
    status: Literal["complete", "failed"]
    reason: str  # why it failed
    variant: str  # the value that a tuning run tries, such as learner.learning_rate=0.0001
    score: ScoreKind
    counts: Counts
    costs: Costs
    diagnostics: dict[str, Number]  # the run's last measurement, by name

    @property
    def folder(self) -> Path:
        """Its folder within the results."""
        return folder_of(self.arm, self.variant, self.environment, self.seed)


def record_of_run_directory(
    directory: Path,
    *,
    study: str = "",
    arm: str | None = None,
    purpose: Purpose = "test",
    variant: str = "",
    horizons: Sequence[int] = (),
    score: ScoreKind = "training",
    core_seconds: float | None = None,
) -> RunRecord:
    """The record of any run directory.

    A run that is incomplete or lacks a score at a horizon counts as failed. Its reason says what is missing.

    Args:
        arm: the arm's name; by default the folder's name.
        horizons: env steps to score; by default run.env_steps.
        core_seconds: CPU time as the run's starter measured it, used if the run has not measured its own.

    Raises:
        UsageError: there is no run here.
        RunError: a table of the run cannot be read, or has a value that is not a finite number.
    """
    run = RunDirectory(directory)
    if not run.config.is_file():
        raise UsageError(f"{directory} holds no run: it has no run.yaml; name folders that `sbrl train` has made")
    config, metadata, summary = configs.load(run.config), metadata_of(run.config), read_summary(run.summary)
    episodes = read_episodes(run.episodes) if run.episodes.exists() else []
    evaluations = read_evaluations(run.evaluations) if run.evaluations.exists() else []
    episodes.sort(key=lambda episode: episode.env_steps)
    evaluated = tuple((evaluation.env_steps, evaluation.return_mean) for evaluation in evaluations)
    horizons = tuple(horizons) or (config.run.env_steps,)
    scores = {horizon: score_at(horizon, score, episodes, evaluated) for horizon in horizons}
    reason = _what_is_missing(config, summary, scores)
    wall_seconds = summary.get("wall_seconds")
    return RunRecord(
        study=study,
        arm=arm or directory.resolve().name,
        environment=config.env.id,
        seed=config.run.seed,
        purpose=purpose,
        settings=settings_of(config),
        returns=returns_on_grid(episodes, config.run.env_steps),
        evaluations=evaluated,
        scores={horizon: value for horizon, value in scores.items() if value is not None},
        config_hash=hash_of(config),
        version=str(metadata.get("versions", {}).get("sbrl", "unknown")),
        commit=str(metadata.get("git_commit", "unknown")),
        hardware=str(metadata.get("hardware") or metadata.get("platform", "unknown")),
        status="failed" if reason else "complete",
        reason=reason,
        variant=variant,
        score=score,
        counts=Counts(
            env_steps=summary.get("env_steps", 0),
            updates=summary.get("updates", 0),
            samples_trained=summary.get("samples_trained", 0),
            samples_per_insert=summary.get("samples_per_insert_achieved"),
        ),
        costs=Costs(
            wall_seconds=wall_seconds,
            core_seconds=summary.get("core_seconds", core_seconds),
            gpu_seconds=wall_seconds if config.learner.device.startswith("cuda") else 0.0,
            bytes_moved=bytes_moved(run, config, metadata, summary),
        ),
        diagnostics=summary.get("diagnostics", {}),
    )


def score_at(horizon: int, kind: ScoreKind, episodes: Sequence[Episode], evaluations: Points) -> float | None:
    """A run's score at `horizon` env steps; None if it had none yet.

    training: the mean return of the last 100 training episodes that had ended by then (Machado et al. 2018).
    evaluation: the mean return of the last evaluation by then.

    Args:
        episodes, evaluations: ordered by env steps.
    """
    if kind == "evaluation":
        by_then = [value for env_steps, value in evaluations if env_steps <= horizon]
        return by_then[-1] if by_then else None
    returns = [episode.episode_return for episode in episodes if episode.env_steps <= horizon][-SCORE_EPISODES:]
    return float(np.mean(returns)) if returns else None


def returns_on_grid(episodes: Sequence[Episode], env_steps: int) -> Points:
    """The learning curve: the mean return of the training episodes that ended in each of BINS equal parts of a run.

    A part in which no episode ended is interpolated between its neighbours. The curve is empty if no episode ended, or if the
    run has fewer steps than parts.
    """
    if not episodes or env_steps < BINS:
        return ()
    ends = np.arange(1, BINS + 1) * env_steps // BINS
    place = np.minimum(np.searchsorted(ends, [episode.env_steps for episode in episodes]), BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    sums = np.bincount(place, [episode.episode_return for episode in episodes], minlength=BINS)
    filled = np.flatnonzero(counts)
    means = np.interp(np.arange(BINS), filled, sums[filled] / counts[filled])
    return tuple(zip(ends.tolist(), means.tolist(), strict=True))


def settings_of(config: Config) -> dict[str, object]:
    """Every dotted key of a config with its resolved value; env.kwargs is one key. Addresses and ports are left out."""
    tree = config.model_dump(mode="json", exclude={"network", "schema_version"})
    return {f"{section}.{key}": value for section, values in tree.items() for key, value in values.items()}


def hash_of(config: Config) -> str:
    """16 hexadecimal digits. Two runs of one version of SBRL share them if and only if all their settings, with seed and
    environment, are equal."""
    text = json.dumps(settings_of(config), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def name_of_folder(text: str) -> str:
    """The folder name of an arm or an environment: MinAtar/Breakout-v1 becomes MinAtar-Breakout-v1."""
    return re.sub(r"[^A-Za-z0-9._=+-]+", "-", text).strip("-.") or "-"


def folder_of(arm: str, variant: str, environment: str, seed: int) -> Path:
    """A run's folder within the results. Args: variant: empty for a test run."""
    place = Path(name_of_folder(environment), f"seed-{seed}")
    return Path("tuning", name_of_folder(arm), name_of_folder(variant), place) if variant else Path(name_of_folder(arm), place)


def write_record(results: Path, record: RunRecord) -> Path:
    """Writes a record and returns its folder. record.json is written last: it marks the record as complete.

    Raises:
        RunError: the file system refuses.
    """
    folder = results / record.folder
    plain = {name: value for name, value in asdict(record).items() if name not in TABLES}
    text = json.dumps({"record_version": RECORD_VERSION, **plain}, indent=1, allow_nan=False) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / RETURNS, _table(record.returns))
        write_durably(folder / EVALUATIONS, _table(record.evaluations))
        write_durably(folder / RECORD, text.encode())
    except OSError as error:
        raise RunError(f"cannot write the record {folder}: {error.strerror}") from None
    return folder


def load_record(folder: Path) -> RunRecord:
    """Reads a record that `write_record` wrote.

    Raises:
        UsageError: a file is missing, damaged, from another version, or has a value that no run has. The message names the
            file, and in a record also the key.
    """
    path = folder / RECORD
    try:
        tree = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        if not isinstance(tree, dict):
            raise ValueError(f"it must be a mapping: names with values, not a {type(tree).__name__}")
        version = tree.pop("record_version")
        if version != RECORD_VERSION:
            raise ValueError(f"it is of version {version!r}, and this sbrl reads {RECORD_VERSION}: use the sbrl that wrote it")
        if doubled := tree.keys() & TABLES.keys():
            raise ValueError(f"it has unknown keys: {', '.join(sorted(doubled))}")
        record = _adapter().validate_python(tree | {name: _read_table(folder / file) for name, file in TABLES.items()})
        for key, name, value in (("env.id", "environment", record.environment), ("run.seed", "seed", record.seed)):
            if record.settings[key] != value:
                raise ValueError(f"settings.{key}={shown(record.settings[key])} must be {value!r}, as {name} is")
    except KeyError as error:
        raise _lacking(path, str(error)) from None
    except ValidationError as error:
        raise _refusal(folder, error) from None
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from None
    return replace(record, settings={**_defaults(), **record.settings})  # a key that is newer than the record had its default


def load_records(folder: Path) -> list[RunRecord]:
    """All records in a folder of results, at any depth, sorted by purpose, arm, environment and seed.

    Raises:
        UsageError: the folder does not exist, or a record is damaged: see `load_record`.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder: name the results of a study, or folders of runs")
    records = [load_record(path.parent) for path in folder.rglob(RECORD)]
    return sorted(records, key=lambda one: (one.purpose, one.arm, one.environment, one.seed, one.config_hash))


@cache
def _defaults() -> dict[str, object]:
    return settings_of(configs.build())


@cache
def _adapter() -> TypeAdapter[RunRecord]:
    return TypeAdapter(RunRecord)


def _refusal(folder: Path, error: ValidationError) -> UsageError:
    """Names what is wrong with a record: unknown keys, missing keys, or else the first value that breaks a rule."""
    faults = error.errors()
    unknown, missing = (
        [".".join(map(str, fault["loc"])) for fault in faults if fault["type"] == kind]
        for kind in ("unexpected_keyword_argument", "missing")
    )
    if unknown:
        return _unreadable(folder / RECORD, f"it has unknown keys: {', '.join(sorted(unknown))}")
    if missing:
        return _lacking(folder / RECORD, ", ".join(map(repr, missing)))
    path = folder / TABLES.get(str(faults[0]["loc"][0]), RECORD)
    return _unreadable(path, explain(error, BaseModel).splitlines()[0])


def _lacking(path: Path, keys: str) -> UsageError:
    return UsageError(f"the record {path} lacks {keys}: delete the folder and run the study again")


def _unreadable(path: Path, reason: object) -> UsageError:
    return UsageError(f"the record {path} cannot be read: {reason}; put it back, or delete the folder and run the study again")


def _what_is_missing(config: Config, summary: Mapping[str, Any], scores: Mapping[int, float | None]) -> str:
    if not summary:
        return "it ended before it had written a summary.json"
    if not summary.get("complete"):
        return f"{summary.get('env_steps', 0):,} of {config.run.env_steps:,} env steps are collected and trained on"
    missing = [f"{horizon:,}" for horizon, value in scores.items() if value is None]
    return f"nothing had been scored by env step {', '.join(missing)}" if missing else ""


def _table(points: Points) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(points)
    return text.getvalue().encode()


def _read_table(path: Path) -> Points:
    """Raises UsageError if it is not such a table."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
        if tuple(header) != COLUMNS:
            raise ValueError(f"it has the columns {','.join(header)}; expected {','.join(COLUMNS)}")
        return tuple((int(env_steps), float(value)) for env_steps, value in rows)
    except (OSError, ValueError, csv.Error) as error:
        raise _unreadable(path, error) from None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"it holds {name}, which is no finite number")
