"""What is not finite in training: found before it is saved, published, sent or acted with, and its cause named."""

from __future__ import annotations

import logging
import math
import queue
import threading
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from actors.weights import WeightsFollower
from learner.batches import SampledBatch
from learner.divergence import divergence
from learner.loop import LearnerLoop
from learner.update import make_update_step
from sbrl import config
from sbrl.errors import FinalError
from sbrl.networks.build import build_network
from sbrl.networks.serialization import all_finite, encode
from sbrl.weights import FetchedWeights
from services.evaluator.loop import EvaluatorLoop
from tests.monitoring.test_learner_readings import CONFIG, SPEC, make_batch, make_items, make_loop

INF, NAN = math.inf, math.nan
WAIT = 20.0


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_one_number_among_all_is_found(bad: float) -> None:
    tensors = [torch.randn(300, 7), torch.zeros(()), torch.zeros(0), torch.full((5,), 1e30), torch.arange(4)]
    assert all_finite(tensors)
    for index, place in ((0, (299, 6)), (0, (0, 0)), (1, ()), (3, (4,))):
        before = tensors[index][place].item()
        tensors[index][place] = bad
        assert not all_finite(tensors)
        tensors[index][place] = before
    assert not all_finite([torch.tensor([INF, -INF])])


@pytest.mark.parametrize("reward", [INF, NAN])
def test_a_loss_that_was_not_finite_once_is_remembered(reward: float) -> None:
    step = make_update_step(CONFIG, SPEC)
    step.update(make_batch())
    assert step.is_finite()
    for tensor in step.state().online.values():
        tensor.requires_grad_(False)
    step.update(make_batch()._replace(r_t=torch.tensor([1.0, reward])))
    step.restore(make_update_step(CONFIG, SPEC).state())  # parameters and moments that are finite again
    assert not step.is_finite()


class Source:
    """Gives good batches, but the third has a reward that is not finite; keeps the priorities sent."""

    samples_served, samples_discarded, priorities_evicted, shards_up, wait_seconds = 100, 0, 0.0, 2, 0.0

    def __init__(self, reward: float) -> None:
        self._reward, self._given = reward, 0
        self.priorities_dropped: dict[str, int] = {}
        self.sent: list[NDArray[np.float64]] = []

    def get(self, *arguments: object) -> SampledBatch:
        self._given += 1
        rewards = torch.tensor([self._reward if self._given == 3 else 1.0, 1.0])
        return SampledBatch(make_batch()._replace(r_t=rewards), make_items(3, 5))

    def update_priorities(self, items: object, priorities: NDArray[np.float64]) -> None:
        self.sent.append(priorities)


@pytest.mark.parametrize("reward", [INF, NAN])
@pytest.mark.parametrize("prioritized", [True, False])
@pytest.mark.parametrize("publish_period", [1, 2, 3])
def test_nothing_that_is_not_finite_is_published_sent_or_saved(
    reward: float, prioritized: bool, publish_period: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("learner.loop.REPORT_SECONDS", INF)  # what a report finds comes too late
    registry = CollectorRegistry()
    source, published, saved = Source(reward), list[int](), list[object]()

    def look(loop: LearnerLoop) -> None:
        published.append(loop._step.updates)
        assert all_finite(loop._step.acting_weights().values())

    loop = make_loop(registry, look, steps=50)
    tree = CONFIG.model_dump(mode="json")
    tree["replay"]["prioritized"], tree["learner"]["publish_period"] = prioritized, publish_period
    loop._config, loop._source = config.build(tree), cast(Any, source)
    loop._store = cast(Any, SimpleNamespace(save=lambda *state: saved.append(state)))
    with pytest.raises(FinalError, match=r"after [34] updates; the replay holds rewards .* that are not finite"):
        loop.run()
    assert published == [updates for updates in (1, 2) if updates % publish_period == 0]
    with pytest.raises(FinalError):
        loop.save()
    assert saved == []
    assert all(np.isfinite(priorities).all() for priorities in source.sent)
    assert len(source.sent) == (2 if prioritized else 0)
    assert math.isfinite(loop._max_priority)
    assert registry.get_sample_value("sbrl_learner_losses_not_finite_total") == 2.0  # found twice: by the loop and by `save`


@pytest.mark.parametrize(
    ("reward", "observation", "words"),
    [
        (1.0, 1.0, ["lower learner.learning_rate=0.0001;"]),
        (1e20, 1.0, ["rewards of up to 1e+20", "scale them down", "env.clip_rewards=true", "or lower learner.learning_rate"]),
        (-1.0, -1e6, ["observations of up to 1e+06", "scale them down"]),
    ],
)
def test_the_message_names_cause_and_remedy(reward: float, observation: float, words: list[str]) -> None:
    batch = make_batch()
    batch.r_t[1], batch.s_t[1, 0, 2] = reward, observation
    message = str(divergence("the loss is not finite", 12_345, batch, True, CONFIG))
    for word in ["the loss is not finite after 12,345 updates", "--resume goes on from the last checkpoint", *words]:
        assert word in message


def test_what_the_replay_holds_is_not_put_down_to_the_learning_rate() -> None:
    message = str(divergence("the loss is not finite", 1, make_batch(), False, CONFIG))
    assert "mend the environment and start a new run" in message
    assert "learning_rate" not in message


def test_frames_are_no_cause() -> None:
    batch = make_batch()._replace(
        s_tm1=torch.full((2, 4, 36, 36), 255, dtype=torch.uint8), s_t=torch.zeros(2, 4, 36, 36).byte()
    )
    assert "lower learner.learning_rate" in str(divergence("the loss is not finite", 1, batch, True, CONFIG))
    assert "lower learner.learning_rate" in str(divergence("the loss is not finite", 0, None, True, CONFIG))


def weights_of(value: float) -> bytes:
    network = build_network(CONFIG.agent, SPEC, seed=1)
    with torch.no_grad():
        next(network.parameters()).view(-1)[0] = value
    return encode(network.state_dict())


class Client:
    """Serves versions one after the other."""

    def __init__(self, *versions: bytes) -> None:
        self._versions = versions

    def fetch(self, newer_than_version: int, timeout: float = 0.0) -> FetchedWeights | None:
        if newer_than_version == len(self._versions):
            return None
        return FetchedWeights(newer_than_version + 1, 100, self._versions[newer_than_version], 1.0)

    def close(self) -> None:
        pass


def test_an_actor_does_not_take_up_weights_that_are_not_finite() -> None:
    follower = WeightsFollower(cast(Any, Client(weights_of(1.0), weights_of(NAN))), 0.001)
    said: queue.Queue[str] = queue.Queue()
    handler = logging.Handler()
    handler.emit = lambda record: said.put(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("actors.weights")
    logger.addHandler(handler)
    try:
        follower.start()
        message = said.get(timeout=WAIT)
    finally:
        follower.close()
        logger.removeHandler(handler)
    taken = follower.take()
    assert taken is not None
    assert taken.version == 1
    assert "weights version 2: " in message
    assert "not finite" in message
    assert said.empty()  # one look at them is enough


def test_an_evaluator_waits_for_other_weights(caplog: pytest.LogCaptureFixture) -> None:
    evaluator = config.build({"env": {"id": "CartPole-v1"}, "evaluator": {"interval_env_steps": 10}})
    loop = EvaluatorLoop(evaluator, cast(Any, None), cast(Any, None), cast(Any, None), cast(Any, _Metrics()), threading.Event())
    fetched = Client(weights_of(INF)).fetch(0)
    assert fetched is not None
    loop._evaluate(fetched, env_steps=25)
    assert "weights version 1 is not evaluated" in caplog.text
    assert (loop._version, loop._due) == (1, 30)


class _Metrics:
    weights_version = SimpleNamespace(set=lambda version: None)
