"""Weights on their way to the coordinator: a copy, looked at and encoded outside the update thread, one at a time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from learner import publisher as module
from learner.publisher import Publisher
from sbrl.coordination.weights import StaleEpochError
from sbrl.networks import serialization
from sbrl.networks.serialization import decode
from sbrl.telemetry.metrics import make_registry
from tests.learners import FixedBatches, Learner

WAIT = 20.0
FINE, BAD = torch.zeros(()), torch.tensor(float("nan"))


class Client:
    """A coordinator that answers when it is let."""

    def __init__(self) -> None:
        self.received: queue.Queue[tuple[dict[str, Tensor], int]] = queue.Queue()
        self.answers: queue.Queue[int | Exception] = queue.Queue()

    def publish(self, data: bytes, epoch: int, updates: int) -> int:
        self.received.put((decode(data), updates))
        answer = self.answers.get(timeout=WAIT)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def publisher(client: Client) -> Iterator[Publisher]:
    publisher = Publisher(cast(Any, client), epoch=1)
    publisher.start()
    yield publisher
    client.answers.put(99)  # whatever it still waits for
    publisher.close(WAIT)


def test_what_is_sent_is_a_copy_of_that_moment(client: Client, publisher: Publisher) -> None:
    weights = {"w": torch.ones(3)}
    publisher.publish(weights, FINE, updates=7)
    weights["w"].fill_(5.0)
    sent, updates = client.received.get(timeout=WAIT)
    assert (sent["w"].tolist(), updates) == ([1.0, 1.0, 1.0], 7)
    assert not publisher.is_idle
    client.answers.put(3)
    assert publisher.wait_idle(WAIT)
    assert (publisher.is_idle, publisher.version, publisher.published) == (True, 3, 1)


def test_weights_are_encoded_outside_the_thread_that_publishes(
    client: Client, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, threads = serialization.encode, []

    def noting(*arguments: Any) -> bytes:
        threads.append(threading.current_thread())
        return encode(*arguments)

    monkeypatch.setattr(module, "encode", noting)
    publisher.publish({"w": torch.ones(3)}, FINE, updates=1)
    client.answers.put(1)
    assert publisher.wait_idle(WAIT)
    assert threads == [publisher._thread]


@pytest.mark.parametrize("deliver_at", [1, 5])
def test_nothing_is_copied_while_the_last_weights_are_on_their_way(tmp_path: Path, deliver_at: int) -> None:
    """They are due at updates 2, 4 and 6: what comes too early is made once, as soon as the way is free."""
    learner = Learner(tmp_path, make_registry("learner"), updates=7, batches=FixedBatches())
    learner.publisher.is_idle = False
    learner.reporter.trained = lambda drawn, result: setattr(  # type: ignore[method-assign]
        learner.publisher, "is_idle", learner.step.updates >= deliver_at
    )
    while learner.step.updates < 7:
        learner.loop._train()
    assert learner.published == ([2, 4, 6] if deliver_at == 1 else [5, 6])


@pytest.mark.parametrize(("weight", "mark"), [(float("inf"), FINE), (1.0, BAD)], ids=["weights", "mark"])
def test_what_is_not_finite_is_never_sent(client: Client, publisher: Publisher, weight: float, mark: Tensor) -> None:
    publisher.publish({"w": torch.tensor([1.0, weight])}, mark, updates=1)
    assert not publisher.wait_idle(WAIT)
    assert not publisher.is_finite
    assert client.received.empty()


def test_a_learner_that_was_replaced_hears_of_it(client: Client, publisher: Publisher) -> None:
    publisher.publish({"w": torch.ones(1)}, FINE, updates=1)
    client.answers.put(StaleEpochError("another learner"))
    assert not publisher.wait_idle(WAIT)
    with pytest.raises(StaleEpochError):
        publisher.publish({"w": torch.ones(1)}, FINE, updates=2)
