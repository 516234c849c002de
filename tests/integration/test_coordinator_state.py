"""What a coordinator keeps of its run's config and finds in its directory when it starts."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from sbrl import config
from sbrl.coordination.fleet import FleetClient
from sbrl.coordination.membership import FleetMember
from sbrl.errors import RunError, UsageError
from sbrl.monitor.run_status import config_of
from sbrl.telemetry.metrics import CoordinatorMetrics
from services.coordinator.__main__ import settled_config
from services.coordinator.server import Coordinator
from services.coordinator.store import SCHEMA_VERSION, Store

BEGUN = "run: {env_steps: 100000}\n"  # of which min_size 10,000 and epsilon_decay_steps 20,000 follow


def start(directory: Path, text: str) -> config.Config:
    """The config that a coordinator goes by, and tells whoever asks; `text` is the one it is given now."""
    path = directory / "run.yaml"
    path.write_text(text, encoding="utf-8")
    coordinator = Coordinator(
        directory / "coordinator",
        config.load(path).run.env_steps,
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
    """Else the same run would explore again, and its ratio would be counted from elsewhere."""
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
    """A saved config is complete: what a local run resumes with holds numbers, and they are the same."""
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


@pytest.mark.parametrize("version", [1, SCHEMA_VERSION - 1, SCHEMA_VERSION + 1])
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
