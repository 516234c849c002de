"""Priorities for items that are gone: Reverb says nothing, the reckoning agrees with what is in the table."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.sinks import into
from sbrl.config import load
from sbrl.ports import free_ports
from sbrl.replay.evictions import Evictions
from sbrl.replay.items import TABLE, Items, ItemShape
from sbrl.replay.sampler import ShardSampler
from sbrl.replay.segments import Transition
from sbrl.replay.table import ShardServer
from sbrl.replay.writer import EpisodeWriter
from tests.scripted_episodes import frame_of

SHAPE = ItemShape(1, 1, (2,), np.dtype(np.float32))
CAPACITY, BATCH = 400, 100
CONFIG = load(
    overrides=[
        *("env.id=CartPole-v1", "run.env_steps=1000", "replay.num_shards=1", "replay.min_size=1", "agent.n_step=1"),
        *("agent.n_max=1", "replay.error_buffer=1e9", "learner.updates_per_step=64", f"learner.batch_size={BATCH}"),
        *("replay.prioritized=false", f"replay.capacity={CAPACITY}"),
    ]
)
WAIT = 30.0


@pytest.fixture
def shard(tmp_path: Path) -> Iterator[ShardServer]:
    (port,) = free_ports("127.0.0.1", 1)
    server = ShardServer(CONFIG, SHAPE, 0, port, tmp_path)
    yield server
    server.stop()


def insert(writer: EpisodeWriter, count: int) -> None:
    for t in range(count):
        writer.append(Transition(0, 1.0, False, frame_of(t), 1))
    writer.flush(0, WAIT)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def keys_in(server: ShardServer) -> set[int]:
    return {int(sample.info.key) for sample in server.client.sample(TABLE, 20 * CAPACITY, emit_timesteps=False)}


def test_the_reckoning_agrees_with_what_is_gone(shard: ShardServer, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: queue.Queue[Items] = queue.Queue(maxsize=1)

    address = f"127.0.0.1:{shard.port}"
    writer = EpisodeWriter([address], SHAPE)
    writer.begin(0, frame_of(1)[None], actor=0, incarnation=1, env=0)
    insert(writer, CAPACITY + 50)
    sampler = ShardSampler(address, 0, SHAPE, BATCH, into(batches))
    evictions, readings = sampler.probe.evictions, list[tuple[float, int]]()
    read = evictions.read

    def read_and_note(time: float, inserted: int, size: int, capacity: int) -> None:
        read(time, inserted, size, capacity)
        readings.append((time, inserted))

    monkeypatch.setattr(evictions, "read", read_and_note)
    sampler.start()
    batches.get(timeout=WAIT)
    batches.get(timeout=WAIT)  # what was sampled before the probe's first reading is of no known age
    batch = batches.get(timeout=WAIT)
    wait_until(lambda: readings[-1][0] >= batch.sampled_time)
    inserted = readings[-1][1]
    insert(writer, CAPACITY // 2)
    # Two, so that the pace of insertions between the last readings is known to be none.
    wait_until(lambda: [count - inserted for _, count in readings[-2:]] == [CAPACITY // 2] * 2)
    gone = len(set(batch.key.tolist()) - keys_in(shard))
    sampler.update_priorities(batch, np.ones(BATCH))
    wait_until(lambda: sampler.priorities_evicted > 0)
    sampler.stop()
    writer.close()
    # Half of the table was replaced: of 100 items drawn evenly 50 are gone on average, with a deviation of 5.
    assert sampler.priorities_evicted == pytest.approx(50, abs=1)
    assert gone == pytest.approx(sampler.priorities_evicted, abs=25)


@given(pace=st.integers(0, 50), since=st.floats(0, 30), later=st.floats(0, 30))
def test_a_steady_pace_is_reckoned_exactly(pace: int, since: float, later: float) -> None:
    evictions = Evictions()
    assert evictions.share_gone(0, 1) == 0
    for second in range(31):
        evictions.read(float(second), 1000 + pace * second, size=1000, capacity=1000)
    assert evictions.share_gone(since, since + later) == pytest.approx(min(1.0, pace * later / 1000), abs=1e-9)


def test_a_shard_that_is_not_full_evicts_nothing_and_a_restart_begins_anew() -> None:
    evictions = Evictions()
    for second in range(5):
        evictions.read(float(second), 100 * second, size=100 * second, capacity=1000)
    assert evictions.share_gone(0, 4) == 0
    evictions.read(5.0, 50, size=1000, capacity=1000)
    assert evictions.share_gone(0, 5) == 0
    evictions.read(6.0, 150, size=1000, capacity=1000)
    assert evictions.share_gone(5, 6) == pytest.approx(0.1)


def test_a_restart_that_is_read_while_somebody_asks_does_no_harm() -> None:
    evictions = Evictions()

    class Meddling(int):
        """A capacity that, when it is compared with, lets the probe's thread have its turn: it reads a restart."""

        def __gt__(self, size: int) -> bool:
            evictions.read(7.0, 0, size=1000, capacity=1000)
            return int(self) > size

    for second in range(2):
        evictions.read(float(second), 100 * second, size=1000, capacity=Meddling(1000))
    assert evictions.share_gone(0, 1) == pytest.approx(0.1)
    assert evictions.share_gone(0, 1) == 0
