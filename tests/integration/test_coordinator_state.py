"""A coordinator's stored config of its run, and the state in its directory when it starts."""

from __future__ import annotations

import sqlite3
import zlib
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from sbrl import config
from sbrl.coordination.fleet import FleetClient
from sbrl.coordination.membership import FleetMember
from sbrl.coordination.weights import StaleTermError, WeightsClient
from sbrl.errors import RunError, UsageError
from sbrl.monitor.run_status import config_of
from sbrl.telemetry.metrics import CoordinatorMetrics
from services.coordinator.__main__ import settled_config
from services.coordinator.server import Coordinator
from services.coordinator.store import SCHEMA_VERSION, Store
from tests.coordinator import GOOD, serve

# The previous version's tables, as it made them, except those of the log. A learner had come 41 times.
SCHEMA_3 = """
CREATE TABLE leases (
  incarnation INTEGER PRIMARY KEY AUTOINCREMENT, role TEXT NOT NULL, name TEXT NOT NULL, position INTEGER NOT NULL,
  joined_time REAL NOT NULL, metrics_address TEXT NOT NULL, health_address TEXT NOT NULL, process_id INTEGER NOT NULL,
  seen_time REAL NOT NULL, step_limit INTEGER NOT NULL DEFAULT 0, ended INTEGER NOT NULL DEFAULT 0,
  origin INTEGER NOT NULL DEFAULT 0, process TEXT NOT NULL DEFAULT '', counters TEXT NOT NULL DEFAULT '{}');
CREATE TABLE numbers (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE texts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE progress (row INTEGER PRIMARY KEY CHECK (row = 1), message BLOB NOT NULL);
CREATE TABLE weights (
  version INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, updates INTEGER NOT NULL, size_bytes INTEGER NOT NULL,
  crc32 INTEGER NOT NULL, published_time REAL NOT NULL);
CREATE TABLE episodes (
  row INTEGER PRIMARY KEY, incarnation INTEGER NOT NULL, number INTEGER NOT NULL, UNIQUE (incarnation, number));
CREATE TABLE evaluations (
  row INTEGER PRIMARY KEY, weights_version INTEGER NOT NULL, seed INTEGER NOT NULL, UNIQUE (weights_version, seed));
INSERT INTO leases VALUES (1, 'actor', 'actor-0', 0, 1.0, '', '', 7, 1.0, 600, 1, 1, '', '{"env_steps": 500.0}');
INSERT INTO numbers VALUES ('epoch', 41);
INSERT INTO texts VALUES ('learner_holder', 'learner-0:7');
PRAGMA user_version = 3;
"""
BEGUN = "run: {env_steps: 100000}\n"  # of which min_size 10,000 and epsilon_decay_steps 20,000 follow


def start(directory: Path, text: str) -> config.Config:
    """The config that a coordinator uses and reports. `text` is the one that it gets now."""
    path = directory / "run.yaml"
    path.write_text(text, encoding="utf-8")
    coordinator = Coordinator(
        directory / "coordinator",
        CoordinatorMetrics(CollectorRegistry()),
        settle=lambda before: settled_config(path, before),
    )
    address = f"127.0.0.1:{coordinator.start('127.0.0.1', 0)}"
    try:
        client = FleetClient(address)
        told = config_of(client.status())
        client.close()
        assert told == coordinator.config
        member = FleetMember(address, "actor", "a", counters=dict)
        member.send_heartbeat()
        own = member.settled_config(config.load(path))
        member.leave()
        assert (own.min_replay_size, own.agent.epsilon_decay_steps) == derived(told)
        assert own.run == config.load(path).run
        return told
    finally:
        coordinator.stop(0)


def derived(of: config.Config) -> tuple[int, int | None]:
    return of.min_replay_size, of.agent.epsilon_decay_steps


def test_more_steps_change_nothing_that_the_run_began_with(tmp_path: Path) -> None:
    """Otherwise the same run would explore again, and its ratio would count from another step."""
    assert derived(start(tmp_path, BEGUN)) == (10_000, 20_000)
    for env_steps in (200_000, 1_000_000, 50_000):
        told = start(tmp_path, f"run: {{env_steps: {env_steps}}}\n")
        assert told.run.env_steps == env_steps
        assert derived(told) == (10_000, 20_000)


def test_what_is_set_wins_and_holds_from_then_on(tmp_path: Path) -> None:
    start(tmp_path, BEGUN)
    assert derived(start(tmp_path, "run: {env_steps: 200000}\nagent: {epsilon_decay_steps: 70}\n")) == (10_000, 70)
    assert derived(start(tmp_path, "run: {env_steps: 300000}\nreplay: {min_size: 600}\n")) == (600, 70)
    assert derived(start(tmp_path, "run: {env_steps: 300000}\nreplay: {min_size: null}\n")) == (600, 70)


def test_a_run_that_was_given_its_values_keeps_them_in_its_own_file(tmp_path: Path) -> None:
    """A saved config is complete: a local run resumes with explicit numbers, and they are the same."""
    begun = start(tmp_path, BEGUN)
    tree = begun.model_dump(mode="json")
    tree["run"]["env_steps"] = 400_000
    assert derived(start(tmp_path, config.dump(config.build(tree)))) == (10_000, 20_000)


@pytest.mark.parametrize("section", ["replay", "agent"])
def test_a_section_that_is_none_is_refused_in_words(section: str) -> None:
    before = config.build({"run": {"env_steps": 100_000}})
    with pytest.raises(UsageError, match=section):
        config.keep_derived({section: 3}, before)


def test_a_kept_config_of_another_version_is_refused_in_a_sentence(tmp_path: Path) -> None:
    start(tmp_path, BEGUN)
    store = Store(tmp_path / "coordinator" / "state.sqlite")
    store.set_text("config", "schema_version: 1\nreplay: {error_buffer: 4.0}\n")
    store.close()
    with pytest.raises(UsageError, match=r"^the run's config was written with config schema 1; [^\n]*: start a new run"):
        start(tmp_path, BEGUN)


@pytest.mark.parametrize("version", [1, 2, SCHEMA_VERSION + 1])
def test_the_state_of_another_version_is_refused_in_a_sentence_and_left(tmp_path: Path, version: int) -> None:
    path = tmp_path / "coordinator" / "state.sqlite"
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.executescript(f"CREATE TABLE leases (incarnation INTEGER); PRAGMA user_version = {version};")
    connection.close()
    with pytest.raises(RunError, match=rf"^\S*state\.sqlite has schema {version}, this .* uses {SCHEMA_VERSION}: start a new"):
        start(tmp_path, BEGUN)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (version,)
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("leases",)]
    connection.close()


def test_a_run_that_the_version_before_began_goes_on_with_its_terms(tmp_path: Path) -> None:
    """Its state called the term an epoch. Nothing is lost, and no number is given twice."""
    directory = tmp_path / "coordinator"
    directory.mkdir()
    (directory / "weights-0000000007.safetensors").write_bytes(GOOD)
    with closing(sqlite3.connect(directory / "state.sqlite")) as connection:
        connection.executescript(SCHEMA_3)
        weights = (7, 41, 100, len(GOOD), zlib.crc32(GOOD), 1.0)
        connection.execute("INSERT INTO weights VALUES (?,?,?,?,?,?)", weights)
        connection.commit()
    for term, version in ((42, 7), (43, 8)):
        with serve(directory) as address, closing(FleetClient(address)) as fleet, closing(WeightsClient(address)) as client:
            status = fleet.status()
            assert (status.learner_term, status.learner_holder, status.weights_version) == (term - 1, "learner-0:7", version)
            assert status.totals == {"actor.env_steps": 500.0}
            assert client.acquire_term("learner-0:7") == (term, version)
            with pytest.raises(StaleTermError):
                client.publish(GOOD, term - 1, updates=200)
            assert client.publish(GOOD, term, updates=200) == version + 1


def test_a_state_of_the_version_before_that_cannot_be_taken_up_is_left(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SCHEMA_3 + "DROP TABLE numbers;")
        before = list(connection.iterdump())
    with pytest.raises(RunError, match=r"^cannot use the coordinator's state [^\n]*: no such table: numbers; restore it"):
        Store(path)
    with closing(sqlite3.connect(path)) as connection:
        assert list(connection.iterdump()) == before
        assert connection.execute("PRAGMA user_version").fetchone() == (3,)
