"""Importance weights across real shards: the probability an item is given is the one it is sampled with, whatever its shard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sbrl.replay.table import ShardServer

from learner.batches import BatchSource, SampledBatch
from learner.losses.priorities import importance_weights
from learner.schedules import Horizon
from sbrl.config import Config, load
from sbrl.ports import free_ports
from sbrl.replay.items import ItemShape
from sbrl.replay.segments import Transition
from sbrl.replay.writer import EpisodeWriter

TIMEOUT = 20.0
BATCH_SIZE = 8
SHAPE = ItemShape(1, 1, (1,), np.dtype(np.float32))

# Two shards of unequal sizes and priorities. The larger one gets fewer new items, so it serves fewer batches.
SIZES = (10, 30)
INSERTS = (5, 1)  # per round, each of which lets its shard serve one batch
ROUNDS = 250
SHARES = np.array(INSERTS) / sum(INSERTS)
PRIORITIES = (np.array([0.5 + k % 7 for k in range(SIZES[0])]), np.array([3.0 + 2 * (k % 5) for k in range(SIZES[1])]))


def shard_config(size: int) -> Config:
    """One of two shards, of `size` items each."""
    return load(
        overrides=[
            "env.id=CartPole-v1",
            "run.env_steps=1000",
            "replay.num_shards=2",
            f"replay.capacity={2 * size}",
            f"replay.min_size={2 * size}",
            "replay.error_buffer=1000",
            "replay.prioritized=true",
            "replay.importance_weights=true",
            "agent.n_step=1",
            f"learner.batch_size={BATCH_SIZE}",
            "learner.updates_per_step=1",
        ]
    )


class Shard:
    """A full shard whose every new item is the same as the one that it drives out: the k-th has the k-th priority, for ever."""

    def __init__(self, shard: int, port: int, addresses: list[str], directory: Path) -> None:
        self.shard, self.created = shard, 0
        self.server = ShardServer(shard_config(SIZES[shard]), SHAPE, shard, port, directory)
        self.writer = EpisodeWriter(addresses, SHAPE, self._priority)
        self.insert(SIZES[shard])

    def insert(self, count: int) -> None:
        """One episode of `count` steps; the frame of each is its item's number, from 0."""
        frames = [np.array([(self.created + k) % SIZES[self.shard]], np.float32) for k in range(count)]
        self.writer.begin(self.shard, frames[0][None], actor=0, incarnation=1, env=0)
        for frame in [*frames[1:], frames[0]]:
            self.writer.append(Transition(0, 0.0, False, frame, weights_version=1))
        self.writer.end()
        self.writer.close_episode(TIMEOUT)

    def _priority(self, env: int, step: int) -> float:
        self.created += 1
        return float(PRIORITIES[self.shard][(self.created - 1) % SIZES[self.shard]])

    def stop(self) -> None:
        self.writer.close()
        self.server.stop()


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[SampledBatch]]:
    """What the learner is given in `ROUNDS` rounds of inserts; of each shard as many batches as new items."""
    ports = free_ports("127.0.0.1", 2)
    addresses = [f"127.0.0.1:{port}" for port in ports]
    shards = [Shard(k, port, addresses, tmp_path_factory.mktemp("shard")) for k, port in enumerate(ports)]
    source = BatchSource(addresses, SHAPE, shard_config(SIZES[0]).agent, BATCH_SIZE)
    source.start()

    def get() -> SampledBatch:
        sampled = source.get(TIMEOUT, Horizon(1, 0.9))
        assert sampled is not None
        return sampled

    for _ in shards:
        get()  # each limiter lets the learner be one batch ahead
    served = []
    for _ in range(ROUNDS):
        for shard, count in zip(shards, INSERTS, strict=True):
            shard.insert(count)
        served += [get() for _ in range(sum(INSERTS))]
    yield served
    source.stop()
    for shard in shards:
        shard.stop()


def numbers_of(sampled: SampledBatch) -> NDArray[np.int64]:
    return sampled.batch.s_tm1.numpy().ravel().astype(np.int64)


def in_shard(shard: int) -> NDArray[np.float64]:
    """float64[items]: each item's probability of being sampled by its shard."""
    probability: NDArray[np.float64] = PRIORITIES[shard] / PRIORITIES[shard].sum()
    return probability


def test_a_shards_share_is_what_it_serves_not_what_it_holds(batches: list[SampledBatch]) -> None:
    assert [sampled.items.table_size for sampled in batches[-60:]] == [SIZES[sampled.items.shard] for sampled in batches[-60:]]
    for sampled in batches[-60:]:
        shard = sampled.items.shard
        share = sampled.batch.probability.numpy() / in_shard(shard)[numbers_of(sampled)]
        np.testing.assert_allclose(share, SHARES[shard], rtol=0.1)


def test_items_are_sampled_as_often_as_their_probability_says(batches: list[SampledBatch]) -> None:
    """Chi-square over the items of both shards, with the probability of each as the learner was told at the end."""
    counts, told = [np.zeros(size) for size in SIZES], [np.zeros(size) for size in SIZES]
    for sampled in batches:
        shard, numbers = sampled.items.shard, numbers_of(sampled)
        np.add.at(counts[shard], numbers, 1)
        told[shard][numbers] = sampled.batch.probability.numpy()
    count, probability = np.concatenate(counts), np.concatenate(told)
    assert (count > 0).all()
    assert probability.sum() == pytest.approx(1.0, rel=0.05)
    expected = probability / probability.sum() * count.sum()
    # 39 degrees of freedom. Reverb's sampling cannot be seeded: a bound that chance exceeds less than once in a million times.
    assert float(((count - expected) ** 2 / expected).sum()) < 105


def test_weights_are_one_function_of_the_probability_over_the_batches_of_all_shards(batches: list[SampledBatch]) -> None:
    """A weight is p^-0.5 over a maximum. If that were the batch's own, all of one shard, its share would cancel out."""
    scale: tuple[list[float], list[float]] = ([], [])
    for sampled in batches[300:]:
        batch = sampled.batch
        weights = importance_weights(batch.probability, 0.5, batch.least_probability).numpy()
        assert weights.max() <= 1
        scales = weights * np.sqrt(batch.probability.numpy())  # one number for all items of a batch
        np.testing.assert_allclose(scales, scales[0], rtol=1e-5)
        scale[sampled.items.shard].append(float(scales[0]))
    np.testing.assert_allclose(np.mean(scale[0]), np.mean(scale[1]), rtol=0.05)


def test_a_weight_worked_out_by_hand() -> None:
    probability = torch.tensor([0.04, 0.16, 0.01], dtype=torch.float64)
    torch.testing.assert_close(importance_weights(probability, 0.5), torch.tensor([0.5, 0.25, 1.0]))
    torch.testing.assert_close(importance_weights(probability, 0.5, least=0.0025), torch.tensor([0.25, 0.125, 0.5]))
