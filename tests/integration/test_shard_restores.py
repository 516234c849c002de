"""What a shard admits after its limiter was set anew: real Reverb, from checkpoints with other limits, and from nothing."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from sbrl.replay.table import ShardServer

from sbrl.config import Config, load
from sbrl.ports import free_ports
from sbrl.replay.backend import reverb, tf
from sbrl.replay.items import TABLE, ItemShape
from sbrl.replay.segments import Transition
from sbrl.replay.shard_checkpoints import read_table
from sbrl.replay.writer import BlockedError, EpisodeWriter
from tests.scripted_episodes import frame_of

SHAPE = ItemShape(1, 1, (2,), np.dtype(np.float32))
MIN_SIZE = 10
PATIENCE_MS = 800  # after so long without an answer the limiter's own numbers say whether it admits nothing
BUSY_SECONDS = 20.0  # what a machine with other things to do may take for one insertion that is admitted


def config(batch_size: int = 8, updates_per_step: float = 0.25, capacity: int = 1000, error_buffer: float = 40) -> Config:
    return load(
        overrides=[
            *("env.id=CartPole-v1", "run.env_steps=1000", "replay.num_shards=1", "agent.n_step=1", "agent.n_max=1"),
            f"replay.min_size={MIN_SIZE}",
            f"replay.capacity={capacity}",
            f"replay.error_buffer={error_buffer}",
            f"learner.batch_size={batch_size}",
            f"learner.updates_per_step={updates_per_step}",
        ]
    )


class Shard:
    """One shard's server and a writer to it."""

    def __init__(self, config: Config, directory: Path, owed: float | None = None) -> None:
        (port,) = free_ports("127.0.0.1", 1)
        self.server = ShardServer(config, SHAPE, 0, port, directory, owed=owed)
        self.address = f"127.0.0.1:{port}"
        self.writer = EpisodeWriter([self.address], SHAPE)

    def insert(self, count: int) -> int:
        """Inserts so many transitions, or as many as are admitted; returns how many."""
        before = self.server.info().inserted
        self.writer.begin(0, frame_of(1)[None], actor=0, incarnation=1, env=0)
        try:
            for t in range(count):
                self.writer.append(Transition(0, 1.0, False, frame_of(before + t), 1))
                self._confirm(1)
            self.writer.end()
            self._confirm(0)
            self.writer.close_episode(BUSY_SECONDS)
        except BlockedError:
            self.writer.abandon()
        return self.server.info().inserted - before

    def _confirm(self, unconfirmed: int) -> None:
        """Waits for confirmation. Raises BlockedError once Reverb's limiter, by its own numbers, admits no more."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            table = self.server.client.server_info(timeout=20)[TABLE]
            limiter = table.rate_limiter_info
            error = (limiter.insert_stats.completed + 1) * limiter.samples_per_insert - limiter.sample_stats.completed
            full = table.current_size >= limiter.min_size_to_sample and error > limiter.max_diff
            try:
                self.writer.flush(unconfirmed, PATIENCE_MS / 1000)
                return
            except BlockedError:
                if full or time.monotonic() > deadline:
                    raise

    def sample_all(self) -> int:
        """Takes every sample that is admitted; returns how many."""
        before = self.server.info().sampled
        dataset = reverb.TrajectoryDataset(
            server_address=self.address,
            table=TABLE,
            dtypes={name: tf.as_dtype(dtype) for name, (_, dtype) in SHAPE.columns().items()},
            shapes={name: tf.TensorShape(dims) for name, (dims, _) in SHAPE.columns().items()},
            max_in_flight_samples_per_worker=1,
            num_workers_per_iterator=1,
            rate_limiter_timeout_ms=PATIENCE_MS,
        )
        taken, deadline = 0, time.monotonic() + BUSY_SECONDS
        while True:
            taken += sum(1 for _ in dataset)
            if not self._admits_sample():
                break
            # It was the machine that gave no sample in time, not the limiter.
            assert time.monotonic() < deadline, "samples are admitted that do not come"
        assert taken == self.server.info().sampled - before
        return taken

    def _admits_sample(self) -> bool:
        """Whether Reverb's limiter, by its own numbers, admits one more."""
        table = self.server.client.server_info(timeout=20)[TABLE]
        limiter = table.rate_limiter_info
        error = limiter.insert_stats.completed * limiter.samples_per_insert - (limiter.sample_stats.completed + 1)
        return bool(table.current_size >= limiter.min_size_to_sample and error >= limiter.min_diff)

    def insert_and_sample(self, worth: float) -> int:
        """Inserts until nothing more is admitted, then samples likewise; returns the insertions that were admitted first.

        What was under way when the writer gave up may be admitted while samples are taken: it is worth as much.
        """
        inserted = self.insert(1000)
        before = self.server.info().inserted - inserted
        taken = self.sample_all()
        assert taken == int((self.server.info().inserted - before) * worth)
        return inserted

    def stop(self) -> None:
        self.writer.close()
        self.server.stop()


@pytest.fixture
def first(tmp_path: Path) -> Shard:
    """A shard with 30 insertions, 20 of them after its minimum at 2 samples each, and 12 + 36 taken: 40 - 48 = -8 are owed."""
    shard = Shard(config(), tmp_path)
    assert shard.insert(12) == 12
    assert shard.sample_all() == 2 * 2 + 8  # what is due, and the batch that the learner may be ahead
    assert shard.insert(18) == 18
    assert shard.sample_all() == 18 * 2
    shard.server.checkpoint()
    shard.stop()
    return shard


def test_a_restored_shard_goes_on_with_its_own_count(first: Shard, tmp_path: Path) -> None:
    shard = Shard(config(), tmp_path)
    assert shard.server.restored_size == 30
    assert shard.server.info().owed == -8
    assert shard.sample_all() == 0
    assert shard.insert_and_sample(worth=2) == (40 + 8) // 2
    shard.stop()


@pytest.mark.parametrize(("batch_size", "updates_per_step", "error_buffer"), [(4, 1.0, 50), (32, 0.25, 80), (1, 0.5, 20)])
def test_a_changed_ratio_and_batch_size_take_effect(
    first: Shard, tmp_path: Path, batch_size: int, updates_per_step: float, error_buffer: float
) -> None:
    """What was owed stays owed; from here on an insertion is worth what the new config says."""
    worth = batch_size * updates_per_step
    shard = Shard(config(batch_size, updates_per_step, error_buffer=error_buffer), tmp_path, owed=3.0)
    assert shard.server.info().owed == 3
    assert shard.sample_all() == 3 + batch_size
    assert shard.insert_and_sample(worth) == int((error_buffer + batch_size) / worth)
    table = shard.server.client.server_info(timeout=5)[TABLE]
    assert table.rate_limiter_info.samples_per_insert == worth
    shard.stop()


def test_a_smaller_capacity_keeps_the_newest_and_is_enforced(first: Shard, tmp_path: Path) -> None:
    smaller = config(capacity=20)
    shard = Shard(smaller, tmp_path)
    assert shard.server.restored_size == 20
    assert shard.insert(7) == 7
    assert shard.server.info().size == 20
    assert shard.sample_all() == 7 * 2
    table = read_table(shard.server.checkpoint())
    assert (table.max_size, table.rate_limiter.insert_count - table.rate_limiter.delete_count) == (20, 20)
    assert table.rate_limiter.insert_count == 37
    shard.stop()


def test_a_larger_capacity_is_filled(first: Shard, tmp_path: Path) -> None:
    shard = Shard(config(capacity=5000), tmp_path, owed=-2000.0)
    assert shard.insert(990) == 990
    assert shard.server.info().size == 1020
    shard.stop()


def test_a_shard_that_lost_everything_serves_what_is_owed(tmp_path: Path) -> None:
    """It fills first; then the learner takes what the lost transitions were worth, before more is inserted."""
    shard = Shard(config(), tmp_path, owed=100.0)
    assert shard.insert(200) == MIN_SIZE  # beyond its minimum more than error_buffer is owed already
    taken = shard.sample_all()
    assert taken == 100 + shard.server.info().inserted * 2 + 8
    assert shard.insert_and_sample(worth=2) in (22, 23, 24)  # less what was under way before
    shard.stop()


def test_a_learner_ahead_of_the_books_is_held_back(first: Shard, tmp_path: Path) -> None:
    shard = Shard(config(), tmp_path, owed=-50.0)
    assert shard.sample_all() == 0
    assert shard.insert(21) == 21
    assert shard.sample_all() == 0
    assert shard.insert(1) == 1
    assert shard.sample_all() == 2
    shard.stop()
