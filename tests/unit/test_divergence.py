"""Non-finite values in training are found before they are saved, published or used, and their cause is named."""

from __future__ import annotations

import logging
import math
import queue
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from prometheus_client import CollectorRegistry

from actors.weights import WeightsFollower
from learner.algorithm.divergence import divergence
from learner.algorithm.schedules import Horizon
from learner.algorithm.update import make_update_step
from learner.batches import Drawn, MemoryBatches
from learner.memory.replay import ReplayMemory
from sbrl import config
from sbrl.coordination.weights import FetchedWeights
from sbrl.errors import FinalError
from sbrl.networks.build import build_network
from sbrl.networks.serialization import all_finite, encode
from services.evaluator.loop import EvaluatorLoop
from tests.learners import CONFIG, SHAPE, SPEC, FixedBatches, Learner, make_batch, make_segment

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


@pytest.mark.parametrize("reward", [INF, NAN])
@pytest.mark.parametrize("publish_period", [1, 2, 3])
def test_nothing_that_is_not_finite_is_published_sent_or_saved(
    reward: float, publish_period: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The third batch has a reward that is not finite."""
    monkeypatch.setattr("learner.reporting.REPORT_SECONDS", INF)  # what a report finds comes too late
    registry = CollectorRegistry()
    memory = MemoryBatches(filled_memory(), CONFIG.agent, batch_size=2)

    class Batches(FixedBatches):
        """Batches from a memory, which gets the priorities."""

        def next(self, horizon: Horizon, timeout: float) -> Drawn:
            drawn, fixed = memory.next(horizon, timeout), super().next(horizon, timeout)
            return fixed._replace(source=drawn.source)

        def update_priorities(self, drawn: Drawn, priorities: torch.Tensor) -> None:
            memory.update_priorities(drawn, priorities)

        def max_priority(self) -> float:
            return memory.max_priority()

    batches = Batches(lambda k: make_batch()._replace(r_t=torch.tensor([reward if k == 3 else 1.0, 1.0])))
    settings = config.build(CONFIG.model_dump(mode="json"), {"learner": {"publish_period": publish_period}})

    def look() -> None:
        assert all_finite(learner.step.acting_weights().values())

    learner = Learner(tmp_path, registry, 50, batches, settings, on_publish=look)
    learner.replay.ratio.receive(1000)

    def train_for_ever() -> None:
        while True:  # the loop itself checks published weights
            learner.train()
            learner.publications.publish()

    with pytest.raises(FinalError, match=r"after [34] updates; the replay holds rewards .* that are not finite"):
        train_for_ever()
    assert learner.published == [updates for updates in (1, 2) if updates % publish_period == 0]
    with pytest.raises(FinalError):
        learner.saver.save()
    assert learner.store.checkpoints() == []
    assert math.isfinite(memory.max_priority())
    assert bool(torch.isfinite(memory._memory._priorities.values).all())
    assert registry.get_sample_value("sbrl_learner_losses_not_finite_total") == 2.0  # found twice: by the loop and by `save`


def filled_memory() -> ReplayMemory:
    memory = ReplayMemory(SHAPE, 1000, torch.device("cpu"), seed=0, prioritized=True)
    for first in range(0, 128, 32):
        memory.append(make_segment(first))
    return memory


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
