"""A shard's program, `python -m services.replay`, with a real coordinator: saved state is restored, hangs end."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from sbrl.config import Config, build, dump
from sbrl.coordination.fleet import FleetClient
from sbrl.envs.make import make_spec
from sbrl.replay.backend import reverb
from sbrl.replay.log_fill import LogFill
from sbrl.replay.segment_tables import QUEUE, segment_of
from sbrl.replay.segments import Segment, SegmentShape
from sbrl.rpc.ports import free_ports
from sbrl.runtime.lifecycle import START_AGAIN
from sbrl.storage.run_directory import RunDirectory
from sbrl.telemetry.metrics import CoordinatorMetrics
from sbrl.v1.fleet_pb2 import Member
from services.coordinator.server import Coordinator
from tests.integration.segment_shards import write_steps

pytestmark = pytest.mark.timeout(180)
SECONDS = 60.0  # on a busy machine
POLL_SECONDS = 0.05
SEGMENTS = 5
# The program with a checkpoint that never returns, and a shorter time limit for it.
HANGING = """
import threading
from sbrl.runtime.program import run_program
from sbrl.replay.backend import reverb
from services.replay import __main__ as program

reverb.Client.checkpoint = lambda client: threading.Event().wait()
program.HANGS_SECONDS = 2.0
run_program(program.main)
"""


class Run:
    """A coordinator in this process, and the shard's program in another one."""

    def __init__(self, path: Path) -> None:
        port, coordinator_port = free_ports("127.0.0.1", 2)
        self.address, coordinator = f"127.0.0.1:{port}", f"127.0.0.1:{coordinator_port}"
        self.config: Config = build(
            {
                "env": {"id": "CartPole-v1"},
                "agent": {"n_step": 1, "n_max": 1},
                "replay": {"num_shards": 1, "min_size": 10, "capacity": 1000, "sampling": "cached"},
                "network": {"coordinator_address": coordinator, "replay_addresses": [self.address]},
            }
        )
        self.directory = RunDirectory(path)
        self.directory.config.write_text(dump(self.config), encoding="utf-8")
        self.shape = SegmentShape.of(make_spec(self.config.env), self.config.agent.stored_steps)
        self._coordinator = Coordinator(
            path / "coordinator", CoordinatorMetrics(CollectorRegistry()), lambda before: self.config
        )
        self._coordinator.start("127.0.0.1", coordinator_port)
        self.client = FleetClient(coordinator)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._log = (path / "shard.log").open("wb")

    def start_shard(self, *program: str) -> subprocess.Popen[bytes]:
        """Starts the program, by default the real one, and waits until it serves."""
        served = self.log().count("serving on port")
        command = [sys.executable, *(program or ("-m", "services.replay")), "--config", str(self.directory.config)]
        options = ["--health-port", "0", "--metrics-port", "0", "--run-dir", str(self.directory.path), "--name", "replay-0"]
        process = subprocess.Popen([*command, *options], stdout=self._log, stderr=self._log)
        self._processes.append(process)
        self.wait(lambda: process.poll() is not None or self.log().count("serving on port") > served)
        assert process.poll() is None, self.log()
        return process

    def shard(self) -> Member:
        """What the shard's newest process has reported."""
        (member,) = [member for member in self.client.status().members if member.role == "replay"]
        return member

    def wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.log()
            time.sleep(POLL_SECONDS)

    def log(self) -> str:
        return (self.directory.path / "shard.log").read_text(encoding="utf-8")

    def write(self, first: int, segments: int) -> None:
        write_steps(self.address, self.shape, segments * self.shape.steps, start=first * self.shape.steps)

    def write_and_take(self, first: int, segments: int, count: int) -> list[int]:
        """Takes some of them meanwhile, as the queue has no room for all."""
        with ThreadPoolExecutor(1) as actor:
            written = actor.submit(self.write, first, segments)
            taken = self.take(count)
            written.result(SECONDS)
        return taken

    def take(self, count: int) -> list[int]:
        """The first steps of the queue's next segments."""
        samples = reverb.Client(self.address).sample(QUEUE, num_samples=count, emit_timesteps=False)
        return [segment_of(sample.data, self.shape).first for sample in samples]

    def read_log(self, fill: int) -> list[int]:
        """The first steps of the log's segments, newest first."""
        found: list[int] = []

        def sink(segment: Segment) -> bool:
            found.append(segment.first)
            return True

        assert LogFill(fill, self.shape, sink).go_on(reverb.Client(self.address), lambda: False)
        return found

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait(SECONDS)
        self.client.close()
        self._coordinator.stop(0)
        self._log.close()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path)
    try:
        yield run
    finally:
        run.stop()


def firsts(run: Run, first: int, end: int) -> list[int]:
    return [k * run.shape.steps for k in range(first, end)]


def test_a_shard_serves_again_what_it_had_saved(run: Run) -> None:
    """After an orderly stop it is unchanged; after a kill it is as last saved. The learner drops repeated segments."""
    process = run.start_shard()
    assert run.write_and_take(0, SEGMENTS, SEGMENTS - 2) == firsts(run, 0, SEGMENTS - 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(SECONDS) == 0, run.log()
    killed = run.start_shard()
    assert f"with {SEGMENTS} segments restored" in run.log()
    assert run.take(1) == firsts(run, SEGMENTS - 2, SEGMENTS - 1)
    run.write(100, 1)
    killed.kill()
    killed.wait(SECONDS)
    again = run.start_shard()
    assert run.take(2) == firsts(run, SEGMENTS - 2, SEGMENTS)
    run.write(SEGMENTS, 1)
    assert run.take(1) == firsts(run, SEGMENTS, SEGMENTS + 1)
    assert run.read_log(fill=1) == firsts(run, 0, SEGMENTS + 1)[::-1]
    run.wait(lambda: run.shard().gauges["log_segments"] == SEGMENTS + 1)
    assert run.shard().gauges["queue_segments"] == 0
    again.send_signal(signal.SIGTERM)
    assert again.wait(SECONDS) == 0, run.log()
    run.start_shard()
    assert f"with {SEGMENTS + 1} segments restored" in run.log()
    assert run.read_log(fill=2) == firsts(run, 0, SEGMENTS + 1)[::-1]


def test_a_shard_that_hangs_in_a_checkpoint_ends_to_be_started_again(run: Run) -> None:
    process = run.start_shard("-c", HANGING)
    process.send_signal(signal.SIGTERM)
    assert process.wait(SECONDS) == START_AGAIN, run.log()
    assert "hangs: one pass of the main loop has taken more than 2 s, in " in run.log()
