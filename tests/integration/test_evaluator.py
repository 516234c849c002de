"""The evaluator's program beside a real coordinator: when it evaluates, what it logs, and how it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sbrl import config
from sbrl.coordination.episode_log import LogClient
from sbrl.coordination.fleet import FleetClient
from sbrl.coordination.membership import FleetMember
from sbrl.coordination.weights import WeightsClient
from sbrl.envs.make import make_spec
from sbrl.networks.build import build_network
from sbrl.networks.serialization import encode
from sbrl.rpc.channels import CoordinatorUnavailable
from sbrl.rpc.ports import free_ports

LIMIT = 60.0  # seconds; generous, because machines are shared
INTERVAL = 1000

pytestmark = pytest.mark.timeout(300)


class Run:
    """A coordinator and an evaluator as processes. The test plays learner and actor."""

    def __init__(self, directory: Path, **evaluator: Any) -> None:
        (port,) = free_ports("127.0.0.1", 1)
        self.address = f"127.0.0.1:{port}"
        self.config = config.build(
            {
                "run": {"env_steps": 100_000},
                "env": {"id": "CartPole-v1"},
                "agent": {"hidden_size": 8, "num_quantiles": 3},
                "evaluator": {"interval_env_steps": INTERVAL, "episodes": 2, **evaluator},
                "network": {"coordinator_address": self.address},
            }
        )
        (directory / "run.yaml").write_text(config.dump(self.config))
        self.directory = directory
        self.env_steps = 0  # what the actor reports with its next heartbeat
        self.coordinator = self.start("services.coordinator")
        self.evaluator = self.start("services.evaluator")
        self.log, self.weights, self.fleet = LogClient(self.address), WeightsClient(self.address), FleetClient(self.address)
        self.acquire_term()
        self.actor = FleetMember(self.address, "actor", "test", counters=lambda: {"env_steps": self.env_steps})
        self.actor.start()

    def start(self, module: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", module, "--config", str(self.directory / "run.yaml"), "--run-dir", str(self.directory)]
        return subprocess.Popen(command)

    def acquire_term(self) -> None:
        """Also from a restarted coordinator: this call may be the first to notice that its connection is gone."""
        deadline = time.monotonic() + LIMIT
        while True:
            try:
                self.term, _ = self.weights.acquire_term("test", LIMIT)
                return
            except CoordinatorUnavailable:
                assert time.monotonic() < deadline

    def publish(self, updates: int) -> int:
        network = build_network(self.config.agent, make_spec(self.config.env), seed=updates)
        return self.weights.publish(encode(network.state_dict()), self.term, updates)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Asks the coordinator until `condition` holds, because there is no event to wait for."""
        deadline = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < deadline, f"not met within {LIMIT:g} s"
            assert self.evaluator.poll() is None, "the evaluator has ended"
            time.sleep(0.1)

    def evaluator_counter(self, name: str) -> float:
        """A counter of the present evaluator; 0 until it has reported."""
        members = [member for member in self.fleet.status().members if member.process_id == self.evaluator.pid]
        return members[0].counters.get(name, 0.0) if members else 0.0

    def close(self) -> None:
        for process in (self.evaluator, self.coordinator):
            process.kill()
            process.wait()
        self.actor.leave()
        for client in (self.log, self.weights, self.fleet):
            client.close()


@contextmanager
def running(directory: Path, **evaluator: Any) -> Iterator[Run]:
    run = Run(directory, **evaluator)
    killer = threading.Timer(3 * LIMIT, run.evaluator.kill)
    killer.start()
    try:
        yield run
    finally:
        killer.cancel()
        run.close()


def test_it_evaluates_at_each_interval_outlives_the_coordinator_and_ends_with_the_run(tmp_path: Path):
    with running(tmp_path) as run:
        first = run.publish(updates=10)
        run.env_steps = INTERVAL + 500
        run.wait_until(lambda: len(run.log.read_evaluations()) > 0)
        (evaluation,) = run.log.read_evaluations()
        assert (evaluation.weights_version, evaluation.updates, evaluation.env_steps) == (first, 10, INTERVAL + 500)
        assert evaluation.episodes == 2
        assert evaluation.return_mean == evaluation.length_mean > 0

        # Both killed and started again: the evaluator goes on from the log, so it waits for the interval despite new weights.
        for process in (run.evaluator, run.coordinator):
            process.kill()
            process.wait()
        run.coordinator = run.start("services.coordinator")
        run.acquire_term()
        second = run.publish(updates=20)
        run.evaluator = run.start("services.evaluator")
        run.wait_until(lambda: run.evaluator_counter("blocked_seconds") > 0)
        assert run.evaluator_counter("episodes") == 0
        run.env_steps = 2 * INTERVAL
        run.wait_until(lambda: len(run.log.read_evaluations()) > 1)
        evaluations = run.log.read_evaluations()
        assert [evaluation.weights_version for evaluation in evaluations] == [first, second]
        assert evaluations[1].env_steps == 2 * INTERVAL
        assert evaluations[1].seed == evaluations[0].seed

        run.fleet.finish(LIMIT)
        assert run.evaluator.wait(LIMIT) == 0


def test_sigterm_ends_an_evaluation_at_once_and_logs_nothing_of_it(tmp_path: Path):
    with running(tmp_path, episodes=10**6) as run:
        run.publish(updates=10)
        run.env_steps = INTERVAL
        run.wait_until(lambda: run.evaluator_counter("episodes") > 0)
        run.evaluator.send_signal(signal.SIGTERM)
        assert run.evaluator.wait(15) == 0
        assert run.log.read_evaluations() == []
