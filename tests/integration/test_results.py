"""The results of a running run follow its coordinator's log, and those at its end are the whole log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from sbrl import config
from sbrl.config import Config
from sbrl.coordination.episode_log import LogClient
from sbrl.coordination.fleet import FleetClient
from sbrl.local.results import RunResults
from sbrl.monitor.summary import read_summary
from sbrl.storage.run_directory import RunDirectory
from sbrl.storage.tables import read_episodes, read_evaluations, write_episodes
from sbrl.telemetry.metrics import CoordinatorMetrics
from sbrl.v1.episodes_pb2 import Episode, Evaluation
from services.coordinator.server import Coordinator
from services.coordinator.store import Store

WAIT = 20.0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def episodes(numbers: range, incarnation: int = 1) -> list[Episode]:
    return [Episode(incarnation=incarnation, number=n, episode_return=n / 3, length=n) for n in numbers]


@contextmanager
def coordinator(directory: Path) -> Iterator[tuple[Config, Store]]:
    served = Coordinator(directory / "coordinator", CoordinatorMetrics(CollectorRegistry()), lambda before: config.load())
    port = served.start("127.0.0.1", 0)
    try:
        address = f"network.coordinator_address=127.0.0.1:{port}"
        yield config.load(overrides=["run.env_steps=1000", address]), served._store
    finally:
        served.stop(0.0)


def test_results_follow_the_log_and_are_whole_at_the_end(tmp_path: Path) -> None:
    directory, said = RunDirectory(tmp_path), list[str]()
    with coordinator(tmp_path) as (of_run, _):
        log, fleet = LogClient(of_run.network.coordinator_address), FleetClient(of_run.network.coordinator_address)
        results = RunResults(of_run, directory, fleet, lambda: 7.0, said.append, interval_seconds=0.05)
        results.start()

        def is_followed(expected: list[Episode]) -> bool:
            return directory.episodes.exists() and read_episodes(directory.episodes) == expected

        until(lambda: is_followed([]))
        log.append_episodes(episodes(range(1000)))
        until(lambda: is_followed(episodes(range(1000))))
        log.append_episodes(episodes(range(1000, 1500)))
        log.append_evaluation(Evaluation(weights_version=3, return_mean=1.5))
        until(lambda: is_followed(episodes(range(1500))))
        until(lambda: len(read_evaluations(directory.evaluations)) == 1)
        until(lambda: read_summary(directory.summary).get("wall_seconds") == 7.0)
        log.append_episodes(episodes(range(400), incarnation=2))
        now = episodes(range(1500)) + episodes(range(400), incarnation=2)
        until(lambda: is_followed(now))
        assert not read_summary(directory.summary)["complete"]
        results.finish(fleet.status(), complete=True, has_log=True, may_go_on=lambda: True)
        whole = tmp_path / "whole.csv"
        write_episodes(whole, now)
        assert directory.episodes.read_bytes() == whole.read_bytes()
        assert len(read_evaluations(directory.evaluations)) == 1
        assert read_summary(directory.summary)["complete"]
        results.close()
        log.close()
        fleet.close()
    assert said == []


def test_the_end_does_not_wait_for_a_long_log_to_be_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, reading = RunDirectory(tmp_path), threading.Event()
    with coordinator(tmp_path) as (of_run, _):
        log, fleet = LogClient(of_run.network.coordinator_address), FleetClient(of_run.network.coordinator_address)

        def read_for_ever(self: Store, after_row: int, limit: int) -> tuple[list[Episode], int]:
            reading.set()
            return episodes(range(after_row, after_row + limit)), after_row + limit

        with monkeypatch.context() as endless:
            endless.setattr(Store, "episodes", read_for_ever)
            results = RunResults(of_run, directory, fleet, lambda: 7.0, pytest.fail, interval_seconds=0.01)
            results.start()
            assert reading.wait(WAIT)
            closing = threading.Thread(target=results.close)
            closing.start()
            closing.join(WAIT)
            assert not closing.is_alive()
        assert not directory.episodes.exists()
        assert not list(tmp_path.glob("*.partial"))
        log.close()
        fleet.close()


def test_an_absent_coordinator_is_said_and_leaves_the_files(tmp_path: Path) -> None:
    directory, said = RunDirectory(tmp_path), list[str]()
    with coordinator(tmp_path) as (of_run, _):
        fleet = FleetClient(of_run.network.coordinator_address)
        results = RunResults(of_run, directory, fleet, lambda: 7.0, said.append, interval_seconds=0.05)
        results.start()
        until(directory.summary.exists)
    until(lambda: bool(said))
    assert "not brought up to date: coordinator at" in said[0]
    assert read_episodes(directory.episodes) == []
    results.close()
    fleet.close()
