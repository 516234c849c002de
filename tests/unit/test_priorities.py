"""Priorities on the way to a shard: each is sent, waiting, or counted as dropped."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from sbrl.replay.items import ItemShape
from sbrl.replay.sampler import MAX_PRIORITY_UPDATES, ShardSampler

BATCH = 4
WAIT = 20.0
ITEMS = cast(Any, SimpleNamespace(key=np.arange(BATCH, dtype=np.uint64)))
PRIORITIES = np.ones(BATCH)


class Client:
    """A shard whose calls last until they are released, and then end as the test says."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self.called, self.let_go, self.ended = threading.Event(), threading.Event(), threading.Event()

    def mutate_priorities(self, table: str, priorities: dict[int, float]) -> None:
        self.called.set()
        assert self.let_go.wait(WAIT)
        if self._error is not None:
            raise self._error


@pytest.fixture
def sampler() -> ShardSampler:
    shape = ItemShape(stack=1, n_max=3, frame_shape=(4,), frame_dtype=np.dtype(np.float32))
    return ShardSampler("127.0.0.1:1", 0, shape, BATCH, lambda items, cancelled: True)


def send(sampler: ShardSampler, client: Client) -> threading.Thread:
    """Starts to send waiting priorities; returns once the first call is in flight."""
    thread = threading.Thread(target=sampler._send_priorities, args=(client, sampler._cancel_stream), daemon=True)
    thread.start()
    assert client.called.wait(WAIT)
    return thread


def finish(client: Client, thread: threading.Thread) -> None:
    client.let_go.set()
    thread.join(WAIT)
    assert not thread.is_alive()


def test_what_a_full_queue_drops_is_counted(sampler: ShardSampler) -> None:
    for _ in range(MAX_PRIORITY_UPDATES + 2):
        sampler.update_priorities(ITEMS, PRIORITIES)
    assert sampler.priorities_dropped == 2 * BATCH
    sampler.stop()
    assert sampler.priorities_dropped == (2 + MAX_PRIORITY_UPDATES) * BATCH


@pytest.mark.parametrize("error", [None, RuntimeError("gone")])
def test_what_is_in_a_hung_call_is_counted_when_the_shard_is_lost_and_once(
    sampler: ShardSampler, error: Exception | None
) -> None:
    client = Client(error)
    sampler.update_priorities(ITEMS, PRIORITIES)
    thread = send(sampler, client)
    assert sampler.priorities_dropped == 0
    sampler._cancel_stream.set()
    sampler._give_up_call()
    assert sampler.priorities_dropped == BATCH
    finish(client, thread)
    sampler.stop()
    assert sampler.priorities_dropped == BATCH


def test_what_is_in_a_hung_call_when_the_learner_ends_is_counted(sampler: ShardSampler) -> None:
    client = Client()
    for _ in range(3):
        sampler.update_priorities(ITEMS, PRIORITIES)
    thread = send(sampler, client)
    sampler.stop()
    assert sampler.priorities_dropped == 3 * BATCH
    finish(client, thread)
    assert sampler.priorities_dropped == 3 * BATCH


def test_what_a_shard_refuses_is_counted_and_the_next_is_sent(sampler: ShardSampler) -> None:
    client = Client(ValueError("no"))
    client.let_go.set()
    sampler.update_priorities(ITEMS, PRIORITIES)
    thread = send(sampler, client)
    client.called.clear()
    sampler.update_priorities(ITEMS, PRIORITIES)
    assert client.called.wait(WAIT)
    sampler._cancel_stream.set()
    sampler._give_up_call()
    thread.join(WAIT)
    assert not thread.is_alive()
    assert sampler.priorities_dropped == 2 * BATCH
