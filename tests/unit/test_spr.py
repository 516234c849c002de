"""Self-prediction: predictions, masks, and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.algorithm.schedules import Horizon
from learner.algorithm.spr import NoSelfPrediction, SelfPrediction, TransitionModel, make_self_prediction, self_prediction_loss
from learner.records import Batch, Sequence
from learner.remote_batches import to_batch
from sbrl import config
from sbrl.envs.spec import EnvSpec
from sbrl.networks.build import build_network
from sbrl.networks.network import ValueNetwork
from sbrl.replay.items import Items, future_sequence
from sbrl.replay.segments import PADDING

FRAMES = EnvSpec(3, (36, 36), np.dtype(np.uint8), 4, "frames", True)
STACK, N_MAX, JUMPS = 3, 6, 4


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # these networks are too small for several threads


def items(actions: list[int], discounts: list[float]) -> Items:
    """One item with numbered frames: frame 100 is the newest one in the first observation."""
    frames = np.arange(100 - STACK + 1, 100 + N_MAX + 1, dtype=np.uint8)
    return Items(
        frame=frames[None, :, None],
        action=np.array([actions], np.int32),
        reward=np.zeros((1, N_MAX), np.float32),
        discount=np.array([discounts], np.float32),
        meta=np.zeros((1, 1, 5), np.int64),
        key=np.zeros(1, np.uint64),
        probability=np.ones(1),
        shard=0,
    )


PAD = PADDING


@pytest.mark.parametrize(
    ("actions", "discounts", "valid"),
    [
        ([4, 5, 6, 7, 8, 9], [1, 1, 1, 1, 1, 1], [True, True, True, True]),
        ([4, 5, 6, 7, 8, 9], [1, 1, 1, 1, 0, 1], [True, True, True, True]),  # ends beyond the last jump
        ([4, 5, 6, 7, 8, 9], [1, 1, 0, 1, 1, 1], [True, True, False, False]),  # a life lost: the episode goes on
        ([4, 5, 6, 7, PAD, PAD], [1, 1, 1, 0, 0, 0], [True, True, True, False]),  # terminal
        ([4, 5, PAD, PAD, PAD, PAD], [1, 1, 0, 0, 0, 0], [True, True, False, False]),  # truncated
        ([4, PAD, PAD, PAD, PAD, PAD], [0, 0, 0, 0, 0, 0], [False, False, False, False]),
    ],
    ids=["middle", "later", "life", "terminal", "truncated", "last"],
)
def test_a_scripted_sequence(actions: list[int], discounts: list[float], valid: list[bool]) -> None:
    observation, action, found = future_sequence(items(actions, discounts), STACK, JUMPS)
    assert found.tolist() == [valid]
    assert observation.shape == (1, JUMPS, STACK, 1)
    assert observation[0, :, :, 0].tolist() == [[99, 100, 101], [100, 101, 102], [101, 102, 103], [102, 103, 104]]
    assert action.dtype == np.int64
    assert action.tolist() == [[taken if ok else 0 for taken, ok in zip(actions, valid, strict=False)]]


def test_only_an_agent_that_predicts_gets_a_sequence() -> None:
    scripted, horizon = items([4, 5, 6, 7, 8, 9], [1.0] * 6), Horizon(2, 0.9)
    with_spr = config.build({"agent": {"spr_weight": 5, "spr_jumps": JUMPS, "torso": "nature-cnn"}}).agent
    sequence = to_batch(scripted, STACK, with_spr, horizon, 1.0).sequence
    assert sequence is not None
    assert sequence.action.tolist() == [[4, 5, 6, 7]]
    assert to_batch(scripted, STACK, config.build({}).agent, horizon, 1.0).sequence is None


def test_the_loss_is_the_angle_and_masked() -> None:
    targets = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    valid = torch.tensor([[True, True, True], [True, False, False]])
    torch.testing.assert_close(self_prediction_loss(2.5 * targets, targets, valid), torch.zeros(2))
    torch.testing.assert_close(self_prediction_loss(-targets, targets, valid), torch.tensor([4.0, 4.0 / 3]))
    cosine = torch.nn.functional.cosine_similarity(targets.roll(1, 2), targets, dim=-1)
    expected = ((2 - 2 * cosine) * valid).sum(1) / 3
    torch.testing.assert_close(self_prediction_loss(targets.roll(1, 2), targets, valid), expected)


def make(**agent: Any) -> tuple[ValueNetwork, ValueNetwork, SelfPrediction]:
    """Online network, another target, and the self-prediction."""
    settings = config.build(
        {"agent": {"spr_weight": 5, "spr_jumps": JUMPS, "hidden_size": 16, "num_quantiles": 4} | agent}
    ).agent
    online, target = build_network(settings, FRAMES, seed=0), build_network(settings, FRAMES, seed=1).requires_grad_(False)
    made = make_self_prediction(settings, online.torso, FRAMES.num_actions, seed=0)
    assert isinstance(made, SelfPrediction)
    return online, target, made


def make_batch(valid: NDArray[np.bool_]) -> Batch:
    generator, (size, jumps) = np.random.default_rng(0), valid.shape
    observations = torch.from_numpy(generator.integers(0, 256, (size, 1 + jumps, 4, 36, 36)).astype(np.uint8))
    actions, ones = torch.from_numpy(generator.integers(0, 3, (size, jumps))), torch.ones(size)
    sequence = Sequence(observations[:, 1:], actions, torch.from_numpy(valid))
    return Batch(observations[:, 0], actions[:, 0], ones, ones, observations[:, 0], ones.double(), sequence)


def loss_of(online: ValueNetwork, target: ValueNetwork, predictor: SelfPrediction, batch: Batch) -> Tensor:
    return predictor(online.torso.encode(batch.s_tm1), online.torso, target.torso, batch)  # type: ignore[no-any-return]


def test_the_loss_against_a_plain_rollout() -> None:
    online, target, predictor = make()
    valid = np.array([[True, True, True, True], [True, True, False, False]])
    batch = make_batch(valid)
    assert batch.sequence is not None
    expected = []
    for b in range(2):
        latent, total = online.torso.encode(batch.s_tm1[b : b + 1]), 0.0
        for k in range(int(valid[b].sum())):
            latent = predictor.transition(latent, batch.sequence.action[b, k : k + 1])
            prediction = predictor.predictor(online.torso.projection(latent))[0]
            seen = target.torso.projection(target.torso.encode(batch.sequence.observation[b, k : k + 1]))[0]
            total += (2 - 2 * prediction @ seen / prediction.norm() / seen.norm()).item()
        expected.append(total / JUMPS)
    assert loss_of(online, target, predictor, batch).tolist() == pytest.approx(expected, abs=1e-5)


def test_the_gradient_reaches_encoder_projection_transition_and_predictor_but_no_target() -> None:
    online, target, predictor = make()
    loss_of(online, target, predictor, make_batch(np.ones((3, JUMPS), bool))).mean().backward()
    reached = [*online.torso.encoder.parameters(), *online.torso.projection.parameters(), *predictor.parameters()]
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in reached)
    assert all(parameter.grad is None for parameter in [*online.head.parameters(), *target.parameters()])


def test_nothing_is_learned_from_what_is_not_valid() -> None:
    online, target, predictor = make()
    loss = loss_of(online, target, predictor, make_batch(np.zeros((2, JUMPS), bool)))
    assert loss.tolist() == [0, 0]
    loss.mean().backward()
    assert not any(bool(parameter.grad.any()) for parameter in predictor.parameters() if parameter.grad is not None)


def test_learns_to_predict_a_fixed_target() -> None:
    online, target, predictor = make()
    batch = make_batch(np.ones((2, JUMPS), bool))
    optimizer = torch.optim.Adam([*online.parameters(), *predictor.parameters()], lr=1e-2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = loss_of(online, target, predictor, batch).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_the_transition_sees_the_action_and_stays_in_the_unit_interval() -> None:
    model = TransitionModel(channels=5, num_actions=3)
    latent = torch.rand(1, 5, 4, 4, generator=torch.Generator().manual_seed(0)).expand(3, -1, -1, -1)
    predicted = model(latent, torch.arange(3))
    assert predicted.shape == latent.shape
    assert predicted.flatten(1).min(1).values.tolist() == [0, 0, 0]
    assert predicted.flatten(1).max(1).values.tolist() == pytest.approx([1, 1, 1], abs=1e-2)
    assert not torch.allclose(predicted[0], predicted[1])


def test_noise_is_left_out_and_noisy_layers_stay_noisy() -> None:
    online, target, predictor = make(noisy=True, exploration="noisy-nets")
    batch = make_batch(np.ones((2, JUMPS), bool))
    first = loss_of(online, target, predictor, batch)
    online.resample_noise()
    target.resample_noise()
    assert torch.equal(first, loss_of(online, target, predictor, batch))
    assert all(module.training for network in (online, target) for module in network.modules())


def test_the_seed_alone_makes_the_parameters() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, second = make()[2], make()[2]
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_without_it_the_loss_is_zero_and_nothing_is_learned() -> None:
    settings = config.build({}).agent
    network = build_network(settings, FRAMES)
    none = make_self_prediction(settings, network.torso, 3, seed=0)
    assert isinstance(none, NoSelfPrediction)
    assert none.state_dict() == {}
    assert none(torch.rand(2, 4), network.torso, network.torso, make_batch(np.ones((2, 1), bool))).tolist() == [0, 0]
