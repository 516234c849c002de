"""A shard's own program, `python -m services.replay`, beside a real coordinator: drift is corrected, and a hang is ended."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from services.coordinator.books import Plan

from sbrl.config import Config, build, dump
from sbrl.envs.make import make_spec
from sbrl.fleet import FleetClient
from sbrl.fleet_member import FleetMember
from sbrl.lifecycle import START_AGAIN
from sbrl.metrics import CoordinatorMetrics
from sbrl.ports import free_ports
from sbrl.replay.backend import reverb, tf
from sbrl.replay.items import TABLE, ItemShape
from sbrl.replay.segments import Transition
from sbrl.replay.writer import EpisodeWriter
from sbrl.run_directory import RunDirectory
from sbrl.v1.fleet_pb2 import Member
from services.coordinator.server import Coordinator

pytestmark = pytest.mark.timeout(180)
SECONDS = 60.0  # a busy machine's
POLL_SECONDS = 0.05
MIN_SIZE, INSERTED, WORTH, BATCH = 10, 30, 2, 8
DUE = (INSERTED - MIN_SIZE) * WORTH
# The program with a checkpoint that never returns, and less patience for it.
HANGING = """
import threading
from sbrl.lifecycle import run_program
from sbrl.replay.backend import reverb
from services.replay import __main__ as program

reverb.Client.checkpoint = lambda client: threading.Event().wait()
program.HANGS_SECONDS = 2.0
run_program(program.main)
"""


class Run:
    """A coordinator in this process, and the shard's program in one of its own."""

    def __init__(self, path: Path) -> None:
        port, coordinator_port = free_ports("127.0.0.1", 2)
        self.address, coordinator = f"127.0.0.1:{port}", f"127.0.0.1:{coordinator_port}"
        self.config: Config = build(
            {
                "env": {"id": "CartPole-v1"},
                "agent": {"n_step": 1, "n_max": 1},
                "learner": {"batch_size": BATCH, "updates_per_step": WORTH / BATCH},
                "replay": {"num_shards": 1, "min_size": MIN_SIZE, "capacity": 1000, "error_buffer": 100},
                "network": {"coordinator_address": coordinator, "replay_addresses": [self.address]},
            }
        )
        self.directory = RunDirectory(path)
        self.directory.config.write_text(dump(self.config), encoding="utf-8")
        self.shape = ItemShape.of(make_spec(self.config.env), self.config.agent.stored_steps)
        self._coordinator = Coordinator(
            path / "coordinator", 1000, CoordinatorMetrics(CollectorRegistry()), Plan.of(self.config)
        )
        self._coordinator.start("127.0.0.1", coordinator_port)
        self.client = FleetClient(coordinator)
        self.learner_counts: dict[str, float] = {}
        self.learner_gauges: dict[str, float] = {}
        self.learner = FleetMember(
            coordinator, "learner", "learner-0", counters=lambda: self.learner_counts, gauges=lambda: self.learner_gauges
        )
        self._processes: list[subprocess.Popen[bytes]] = []
        self._log = (path / "shard.log").open("wb")

    def start_shard(self, *program: str) -> subprocess.Popen[bytes]:
        """Starts the program, by default the real one, and waits until its limiter's count is known."""
        joined = self.shard().incarnation if self._processes else 0
        command = [sys.executable, *(program or ("-m", "services.replay")), "--config", str(self.directory.config)]
        ports = ["--health-port", "0", "--metrics-port", "0"]
        process = subprocess.Popen([*command, *ports], stdout=self._log, stderr=self._log)
        self._processes.append(process)
        self.wait(
            lambda: process.poll() is not None or any(self._serves(member, joined) for member in self.client.status().members)
        )
        assert process.poll() is None, self.log()
        return process

    @staticmethod
    def _serves(member: Member, before: int) -> bool:
        owed = member.gauges.get("samples_owed", math.nan)  # unknown until the table is there
        return member.role == "replay" and member.incarnation > before and math.isfinite(owed)

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

    def insert(self, count: int) -> None:
        writer = EpisodeWriter([self.address], self.shape)
        writer.begin(0, np.zeros((1, *self.shape.frame_shape), self.shape.frame_dtype), actor=0, incarnation=1, env=0)
        for t in range(count):
            frame = np.full(self.shape.frame_shape, t + 1, self.shape.frame_dtype)
            writer.append(Transition(0, 1.0, t == count - 1, frame, 1))
        writer.end()
        writer.close_episode(SECONDS)
        writer.close()

    def sample(self, count: int) -> None:
        """Takes so many samples, which are admitted."""
        dataset = reverb.TrajectoryDataset(
            server_address=self.address,
            table=TABLE,
            dtypes={name: tf.as_dtype(dtype) for name, (_, dtype) in self.shape.columns().items()},
            shapes={name: tf.TensorShape(dims) for name, (dims, _) in self.shape.columns().items()},
            max_in_flight_samples_per_worker=1,
            num_workers_per_iterator=1,
            rate_limiter_timeout_ms=int(SECONDS * 1000),
        )
        assert sum(1 for _ in dataset.take(count)) == count

    def newest_items(self) -> list[bytes]:
        """The items of the shard's newest checkpoint, in order."""
        newest = max(path for path in self.directory.replay_checkpoints(0).iterdir() if path.name[0].isdigit())
        return list(tf.data.TFRecordDataset(str(newest / "items.tfrecord"), compression_type="ZLIB").as_numpy_iterator())

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait(SECONDS)
        self.learner.leave()
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


def test_a_shard_whose_count_is_astray_starts_again_with_what_the_books_say(run: Run) -> None:
    process = run.start_shard()
    run.insert(INSERTED)
    run.sample(DUE + BATCH)  # all that is due, and the batch that the learner may be ahead
    run.wait(lambda: run.shard().gauges["samples_owed"] == -BATCH)
    # A learner that was killed has lost what it was trained on: 16 of the samples that the limiter counts.
    trained = DUE + BATCH - 16
    run.learner_counts.update({"samples_trained": trained, "samples_trained.0": trained, "samples_served": trained})
    run.learner.start()
    run.wait(lambda: run.client.status().totals.get("learner.samples_trained.0") == trained)
    assert process.poll() is None  # it is told once the learner holds still
    run.learner_gauges["settling"] = 1.0
    assert process.wait(SECONDS) == START_AGAIN, run.log()
    assert "starting again for 16 samples beyond the limiter's count" in run.log()
    items = run.newest_items()
    assert len(items) == INSERTED
    again = run.start_shard()
    run.wait(lambda: f"with {INSERTED} transitions restored" in run.log())
    assert run.shard().gauges["samples_owed"] == DUE - trained == 8
    assert run.shard().gauges["transitions"] == INSERTED
    run.learner.wait_instructions(SECONDS)
    assert again.poll() is None  # the books are even
    again.send_signal(signal.SIGTERM)
    assert again.wait(SECONDS) == 0, run.log()
    assert sorted(run.newest_items()) == sorted(items)


def test_a_shard_that_hangs_in_a_checkpoint_ends_to_be_started_again(run: Run) -> None:
    process = run.start_shard("-c", HANGING)
    process.send_signal(signal.SIGTERM)
    assert process.wait(SECONDS) == START_AGAIN, run.log()
    assert "hangs: one pass of the main loop has taken more than 2 s, in " in run.log()
