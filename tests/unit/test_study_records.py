"""A run's record: made from a run directory, read back as written, and refused if it is damaged."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from sbrl import config as configs
from sbrl.config import SEGMENT_STEPS
from sbrl.envs.spec import EnvSpec
from sbrl.errors import UsageError
from sbrl.storage.metadata import hardware
from sbrl.storage.run_directory import RunDirectory
from sbrl.storage.tables import write_episodes, write_evaluations
from sbrl.v1.episodes_pb2 import Episode, Evaluation
from studies.arms import arms_of, tuning_runs
from studies.design import load_study
from studies.making import difference, failed_record
from studies.records import (
    BINS,
    TABLES,
    RunRecord,
    hash_of,
    load_record,
    load_records,
    record_of_run_directory,
    returns_on_grid,
    score_at,
    settings_of,
    write_record,
)

ROOT = Path(__file__).resolve().parents[2]
ENV_STEPS = 1000
OVERRIDES = ("env.id=CartPole-v1", f"run.env_steps={ENV_STEPS}", "run.seed=3")
SUMMARY = {
    "complete": True,
    "env_steps": ENV_STEPS,
    "updates": 225,
    "samples_trained": 1800,
    "samples_per_insert_achieved": 2.0,
    "wall_seconds": 12.5,
    "core_seconds": 11.25,
    "diagnostics": {"feature_rank": 7.0},
}


def episodes(*ended: tuple[int, float]) -> list[Episode]:
    return [Episode(env_steps=env_steps, episode_return=value) for env_steps, value in ended]


def make_run(directory: Path, summary: dict[str, object] | None = None, *overrides: str) -> Path:
    run = RunDirectory(directory)
    directory.mkdir(parents=True)
    config = configs.load(overrides=[*OVERRIDES, *overrides])
    metadata = {"git_commit": "abc", "versions": {"sbrl": "0.1.0"}, "hardware": "a processor, 2 cores"}
    run.config.write_text(configs.dump(config, metadata))
    write_episodes(run.episodes, episodes((100, 1.0), (500, 2.0), (1000, 6.0)))
    write_evaluations(
        run.evaluations, [Evaluation(env_steps=500, return_mean=4.0), Evaluation(env_steps=1000, return_mean=5.0)]
    )
    run.summary.write_text(json.dumps(SUMMARY if summary is None else summary))
    return directory


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    return record_of_run_directory(make_run(tmp_path / "run"), study="pilot", arm="batch 8", horizons=(500, 1000))


def test_a_run_directory_becomes_a_record(record: RunRecord) -> None:
    assert (record.study, record.arm, record.environment, record.seed) == ("pilot", "batch 8", "CartPole-v1", 3)
    assert (record.status, record.reason) == ("complete", "")
    assert record.scores == {500: 1.5, 1000: 3.0}
    assert record.evaluations == ((500, 4.0), (1000, 5.0))
    assert (record.counts.updates, record.counts.samples_per_insert) == (225, 2.0)
    assert (record.costs.wall_seconds, record.costs.core_seconds, record.costs.gpu_seconds) == (12.5, 11.25, 0.0)
    assert (record.version, record.commit, record.hardware) == ("0.1.0", "abc", "a processor, 2 cores")
    assert record.diagnostics == {"feature_rank": 7.0}
    assert record.settings["learner.batch_size"] == 8
    assert record.settings["replay.min_size"] == 100  # as resolved


def test_a_record_without_a_key_was_made_with_its_default(record: RunRecord, tmp_path: Path) -> None:
    """A key that came later must not make another run of one that was made before."""
    path = write_record(tmp_path, record) / "record.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written["settings"].pop("env.reward_noise") == 0.0
    path.write_text(json.dumps(written), encoding="utf-8")
    assert load_record(path.parent) == record


def test_records_of_earlier_studies_are_still_of_the_same_settings() -> None:
    study = load_study(ROOT / "studies/library/minatar-short.yaml")
    planned = {run.folder: settings_of(run.config) for run in tuning_runs(study, arms_of(study))}
    records = load_records(ROOT / "docs/studies/minatar-short/tuning")
    assert {one.folder for one in records} == planned.keys()
    for one in records:
        assert difference(one.settings, planned[one.folder]) == ""


def test_hardware_says_what_a_run_had() -> None:
    assert re.fullmatch(r"\S.*, \d+ cores", hardware())


def test_a_record_is_read_back_as_it_was_written(record: RunRecord, tmp_path: Path) -> None:
    tuning = replace(record, purpose="tune", variant="learner.learning_rate=0.0002")
    folders = [write_record(tmp_path / "results", one) for one in (tuning, record)]
    assert folders[1] == tmp_path / "results" / "batch-8" / "CartPole-v1" / "seed-3"
    assert load_records(tmp_path / "results") == [record, tuning]
    assert sum(path.stat().st_size for path in folders[1].iterdir()) < 10_000


def test_scores_at_two_horizons_are_of_what_had_ended_by_then() -> None:
    many = episodes(*((10 * number, float(number)) for number in range(1, 151)))
    assert score_at(500, "training", many, ()) == sum(range(1, 51)) / 50
    assert score_at(1500, "training", many, ()) == sum(range(51, 151)) / 100
    assert score_at(9, "training", many, ()) is None
    assert score_at(999, "evaluation", many, ((500, 4.0), (1000, 5.0))) == 4.0
    assert score_at(499, "evaluation", many, ((500, 4.0), (1000, 5.0))) is None


def test_a_curve_has_equal_parts_and_lines_over_those_that_are_empty() -> None:
    curve = returns_on_grid(episodes((10, 1.0), (11, 2.0), (20, 4.0), (40, 8.0), (1000, 9.0)), ENV_STEPS)
    assert len(curve) == BINS
    assert curve[0] == (10, 1.0)
    assert curve[1] == (20, 3.0)
    assert curve[2] == (30, 5.5)
    assert curve[3] == (40, 8.0)
    assert curve[-1] == (1000, 9.0)
    assert returns_on_grid([], ENV_STEPS) == ()


def test_settings_name_every_key_but_addresses() -> None:
    config = configs.load(overrides=OVERRIDES)
    settings = settings_of(config)
    assert settings["env.kwargs"] == {}
    assert not any(key.startswith(("network", "schema_version")) for key in settings)
    moved = configs.load(overrides=[*OVERRIDES, "network.coordinator_address=127.0.0.1:9000"])
    assert hash_of(moved) == hash_of(config)
    assert len({hash_of(config), *(hash_of(configs.load(overrides=[*OVERRIDES, f"run.seed={n}"])) for n in (4, 5))}) == 3


@pytest.mark.parametrize(
    ("summary", "horizons", "words"),
    [
        ({}, (), "before it had written a summary"),
        ({**SUMMARY, "complete": False, "env_steps": 700}, (), "700 of 1,000 env steps"),
        (SUMMARY, (50, 1000), "nothing had been scored by env step 50"),
    ],
)
def test_a_run_without_what_is_asked_for_has_failed(
    tmp_path: Path, summary: dict[str, object], horizons: tuple[int, ...], words: str
) -> None:
    record = record_of_run_directory(make_run(tmp_path / "run", summary), horizons=horizons)
    assert record.status == "failed"
    assert words in record.reason


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no run: it has no run\.yaml"):
        record_of_run_directory(tmp_path)
    with pytest.raises(UsageError, match="is no folder"):
        load_records(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("name", "was", "now", "words"),
    [
        ("record.json", '"record_version": 1', '"record_version": 2', "is of version 2"),
        ("record.json", '"seed": 3', '"sede": 3', "unknown keys: sede"),
        ("record.json", '"seed": 3,', "", "record.json lacks 'seed'"),
        ("record.json", '"record_version": 1,', "", "record.json lacks 'record_version'"),
        ("record.json", '"seed": 3', '"returns": [], "seed": 3', "unknown keys: returns"),
        ("record.json", '"500": 1.5', '"500": NaN', "holds NaN"),
        ("record.json", "{", "", "cannot be read"),
        ("record.json", '"500": 1.5', '"500": 1e999', r"scores\.500=inf must be a finite number"),
        ("record.json", '"500": 1.5', '"x": 1.5', r"scores\.x\S*='x' must be a whole number"),
        ("returns.csv", "env_steps,mean_return", "steps,return", r"returns\.csv cannot .* has the columns steps,return"),
        ("returns.csv", "6.0", "inf", r"returns\.csv cannot .*=inf must be a finite number"),
        ("returns.csv", "\n10,", "\n-10,", r"returns\.csv cannot .*=-10 must be at least 0"),
        ("evaluations.csv", "4.0", "4.0,1", r"evaluations\.csv cannot .*too many values"),
        ("evaluations.csv", "4.0", "4" * 200_000, r"evaluations\.csv cannot .*field larger"),
    ],
)
def test_a_damaged_record_is_refused_by_name(
    record: RunRecord, tmp_path: Path, name: str, was: str, now: str, words: str
) -> None:
    folder = write_record(tmp_path / "results", record)
    text = (folder / name).read_text()
    assert was in text
    (folder / name).write_text(text.replace(was, now, 1))
    with pytest.raises(UsageError, match=words) as error:
        load_records(tmp_path / "results")
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("counts.updates", "12", "counts.updates='12' must be a whole number"),
        ("counts.updates", True, "counts.updates=True must be a whole number"),
        ("counts.updates", -1, "counts.updates=-1 must be at least 0"),
        ("counts.update", 1, "it has unknown keys: counts.update"),
        ("counts", None, "counts=None"),
        ("costs.core_seconds", "x", "costs.core_seconds='x' must be a number"),
        ("costs.core_seconds", -5, "costs.core_seconds=-5 must be at least 0"),
        ("seed", "0", "seed='0' must be a whole number"),
        ("seed", -1, "seed=-1 must be at least 0"),
        ("arm", ["0"], "arm=['0'] must be text"),
        ("commit", None, "commit=None must be text"),
        ("scores.500", None, "scores.500=None must be a number"),
        ("diagnostics.feature_rank", None, "diagnostics.feature_rank=None must be a number"),
        ("diagnostics.feature_rank", "x", "diagnostics.feature_rank='x' must be a number"),
        ("status", "sort of", "status='sort of' must be 'complete' or 'failed'"),
        ("purpose", "exam", "purpose='exam' must be 'test' or 'tune'"),
        ("score", "best", "score='best' must be 'training' or 'evaluation'"),
        ("settings", None, "settings=None must be a mapping"),
        ("settings/env.id", "Acrobot-v1", "settings.env.id='Acrobot-v1' must be 'CartPole-v1', as environment is"),
        ("settings/run.seed", 4, "settings.run.seed=4 must be 3, as seed is"),
    ],
)
def test_a_record_with_a_value_that_no_run_has_is_refused(
    record: RunRecord, tmp_path: Path, place: str, value: object, words: str
) -> None:
    path = write_record(tmp_path, record) / "record.json"
    written = json.loads(path.read_text())
    *sections, key = place.split("/" if "/" in place else ".")
    (written[sections[0]] if sections else written)[key] = value
    path.write_text(json.dumps(written))
    with pytest.raises(UsageError, match=re.escape(words)) as error:
        load_records(tmp_path)
    assert str(error.value).startswith(f"the record {path} cannot be read: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "place", [*(one.name for one in fields(RunRecord) if one.name not in TABLES), "counts.updates", "costs.core_seconds"]
)
def test_a_record_without_a_value_is_refused(record: RunRecord, tmp_path: Path, place: str) -> None:
    path = write_record(tmp_path, record) / "record.json"
    written = json.loads(path.read_text())
    *sections, key = place.split(".")
    del (written[sections[0]] if sections else written)[key]
    path.write_text(json.dumps(written))
    with pytest.raises(UsageError, match=re.escape(f"the record {path} lacks '{place}': ")):
        load_records(tmp_path)


def test_a_record_whose_settings_lack_the_seed_is_refused(record: RunRecord, tmp_path: Path) -> None:
    path = write_record(tmp_path, record) / "record.json"
    written = json.loads(path.read_text())
    del written["settings"]["run.seed"]
    path.write_text(json.dumps(written))
    with pytest.raises(UsageError, match=re.escape(f"the record {path} lacks 'run.seed': ")):
        load_records(tmp_path)


@pytest.mark.parametrize("text", ["[]", "3", "null", ""])
def test_a_record_that_is_no_mapping_is_refused(record: RunRecord, tmp_path: Path, text: str) -> None:
    path = write_record(tmp_path, record) / "record.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="must be a mapping" if text else "Expecting value"):
        load_records(tmp_path)


def test_every_committed_record_is_read() -> None:
    records = load_records(ROOT / "docs/studies")
    assert len(records) == len(list((ROOT / "docs/studies").rglob("record.json"))) > 500


def test_the_record_of_a_failed_run_is_read_back(tmp_path: Path) -> None:
    study = load_study(ROOT / "studies/library/minatar-short.yaml")
    failed = failed_record(study, tuning_runs(study, arms_of(study))[0], "the loss is not finite")
    assert load_record(tmp_path / write_record(tmp_path, failed)) == failed


def test_bytes_moved_are_counted_in_segments_and_weights(tmp_path: Path) -> None:
    summary = {**SUMMARY, "sampling": "cached", "segments_moved": 10, "weights_moved": 3}
    directory = make_run(tmp_path / "run", summary)
    assert record_of_run_directory(directory).costs.bytes_moved is None  # nothing says how large weights are
    (directory / "coordinator").mkdir()
    (directory / "coordinator" / "weights-0000000007.safetensors").write_bytes(bytes(1000))
    config = configs.load(RunDirectory(directory).config)
    spec = EnvSpec(2, (4,), np.dtype(np.float32), 1, "vector", clip_rewards=False)
    RunDirectory(directory).config.write_text(configs.dump(config, {"environment": spec.to_plain()}))
    rows = SEGMENT_STEPS + config.agent.stored_steps
    assert record_of_run_directory(directory).costs.bytes_moved == 10 * (rows * (4 * 4 + 16) + 7 * 8) + 3 * 1000
    (directory / "summary.json").write_text(json.dumps({**summary, "sampling": "remote"}))
    assert record_of_run_directory(directory).costs.bytes_moved is None
    (directory / "summary.json").write_text(json.dumps({**SUMMARY, "bytes_moved": 0}))
    assert record_of_run_directory(directory).costs.bytes_moved == 0
