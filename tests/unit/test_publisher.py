"""Weights on the way to the coordinator: copied, then checked and encoded on another thread, one at a time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from learner import publisher as module
from learner.block import untimed
from learner.loop import Round
from learner.publication import Publications
from learner.publisher import Publisher
from sbrl.coordination.weights import StaleTermError
from sbrl.networks import serialization
from sbrl.networks.serialization import decode
from sbrl.v1.fleet_pb2 import LEARNER_STATE_TRAINING

WAIT = 20.0
FINE, BAD = torch.zeros(()), torch.tensor(float("nan"))


class Client:
    """A coordinator that answers when the test lets it."""

    def __init__(self) -> None:
        self.received: queue.Queue[tuple[dict[str, Tensor], int]] = queue.Queue()
        self.answers: queue.Queue[int | Exception] = queue.Queue()

    def publish(self, data: bytes, term: int, updates: int) -> int:
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
    publisher = Publisher(cast(Any, client), term=1)
    publisher.start()
    yield publisher
    client.answers.put(99)  # releases a call that still waits
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


@pytest.mark.parametrize(("deliver_at", "published"), [(1, [2, 4, 6]), (5, [5, 6])])
def test_nothing_is_copied_while_the_last_weights_are_on_their_way(deliver_at: int, published: list[int]) -> None:
    """They are due at updates 2, 4 and 6. A publication that is due too early is made once the last one is delivered."""
    taken: list[int] = []
    step = SimpleNamespace(updates=0, not_finite=FINE, acting_weights=dict)
    sender = SimpleNamespace(is_idle=False, is_finite=True, publish=lambda weights, flag, updates: taken.append(updates))
    publications = Publications(cast(Any, step), cast(Any, sender), period=2, phase=untimed, diverge=pytest.fail)
    for step.updates in range(1, 8):
        sender.is_idle = step.updates >= deliver_at
        publications.publish_if_due(Round(0.0, cast(Any, object()), LEARNER_STATE_TRAINING))
    assert taken == published


@pytest.mark.parametrize(("weight", "flag"), [(float("inf"), FINE), (1.0, BAD)], ids=["weights", "flag"])
def test_what_is_not_finite_is_never_sent(client: Client, publisher: Publisher, weight: float, flag: Tensor) -> None:
    publisher.publish({"w": torch.tensor([1.0, weight])}, flag, updates=1)
    assert not publisher.wait_idle(WAIT)
    assert not publisher.is_finite
    assert client.received.empty()


def test_a_learner_that_was_replaced_hears_of_it(client: Client, publisher: Publisher) -> None:
    publisher.publish({"w": torch.ones(1)}, FINE, updates=1)
    client.answers.put(StaleTermError("another learner"))
    assert not publisher.wait_idle(WAIT)
    with pytest.raises(StaleTermError):
        publisher.publish({"w": torch.ones(1)}, FINE, updates=2)
