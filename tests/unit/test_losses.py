"""Properties of losses beyond their equations (see tests/oracles): edge cases, float32, and which network learns."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.algorithm.losses.categorical import cross_entropy, expected_values, project_distribution
from learner.algorithm.losses.interface import make_loss
from learner.algorithm.losses.munchausen import munchausen_bonus, munchausen_targets
from learner.algorithm.losses.priorities import importance_weights, priorities
from learner.algorithm.losses.selection import select_action
from learner.algorithm.losses.td import TdError, q_targets
from learner.records import Batch
from sbrl import config
from sbrl.config.algorithms import ALGORITHMS
from sbrl.envs.spec import EnvSpec
from sbrl.networks.build import build_network

SPEC = EnvSpec(3, (4,), np.dtype(np.float32), 1, "vector", False)


def make_agent(algorithm: str, **settings: Any) -> config.Agent:
    small = {"hidden_size": 16, "num_atoms": 11, "v_min": -5.0, "v_max": 5.0, "num_quantiles": 10}
    return config.Agent(**{"algorithm": algorithm, **small, **settings})


def make_batch(size: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        s_tm1=torch.randn(size, 1, 4, generator=generator),
        a_tm1=torch.arange(size) % 3,
        r_t=torch.randn(size, generator=generator),
        discount_t=torch.full((size,), 0.97),
        s_t=torch.randn(size, 1, 4, generator=generator),
        probability=torch.full((size,), 0.1, dtype=torch.float64),
    )


@pytest.mark.parametrize("noisy", [False, True], ids=["plain", "noisy"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_loss_of_every_algorithm(algorithm: str, noisy: bool) -> None:
    """Each sample has its own loss. All of the online network gets a gradient, and nothing of the target network."""
    agent, batch = make_agent(algorithm, noisy=noisy, double=algorithm != "m-dqn"), make_batch()
    online, target = build_network(agent, SPEC, seed=1), build_network(agent, SPEC, seed=2)
    loss, q_tm1, targets = make_loss(agent)(online.torso(batch.s_tm1), online, target, batch)
    assert loss.shape == q_tm1.shape == targets.shape[:1] == (6,)
    assert loss.dtype == q_tm1.dtype == targets.dtype == torch.float32
    assert (loss > 0).all()
    assert not q_tm1.requires_grad
    assert not targets.requires_grad
    loss.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in online.parameters())
    assert all(parameter.grad is None for parameter in target.parameters())
    if algorithm != "iqn":
        expected = select_action(online.q_values(batch.s_tm1), batch.a_tm1)
        torch.testing.assert_close(q_tm1, expected.detach())


@pytest.mark.parametrize("algorithm", sorted(set(ALGORITHMS) - {"m-dqn", "iqn"}))
def test_the_target_reported_is_the_bellman_target_of_expected_returns(algorithm: str) -> None:
    agent, batch = make_agent(algorithm), make_batch()
    if algorithm == "c51":  # rewards would move mass beyond the last atom
        batch = batch._replace(r_t=torch.zeros(6))
    online, target = build_network(agent, SPEC, seed=1), build_network(agent, SPEC, seed=2)
    result = make_loss(agent)(online.torso(batch.s_tm1), online, target, batch)
    expected = batch.r_t + batch.discount_t * target.q_values(batch.s_t).amax(dim=1)
    torch.testing.assert_close(result.target.mean(dim=-1), expected.detach())


@pytest.mark.parametrize("algorithm", ["m-dqn", "iqn"])
def test_the_target_reported_without_a_future_is_the_reward(algorithm: str) -> None:
    agent = make_agent(algorithm, **({"munchausen_alpha": 0.0} if algorithm == "m-dqn" else {}))
    batch = make_batch()._replace(discount_t=torch.zeros(6))
    online, target = build_network(agent, SPEC, seed=1), build_network(agent, SPEC, seed=2)
    result = make_loss(agent)(online.torso(batch.s_tm1), online, target, batch)
    torch.testing.assert_close(result.target.mean(dim=-1), batch.r_t)


@pytest.mark.parametrize("algorithm", sorted(set(ALGORITHMS) - {"iqn"}))
def test_samples_do_not_see_each_other(algorithm: str) -> None:
    agent, batch = make_agent(algorithm), make_batch()
    online, target = build_network(agent, SPEC, seed=1), build_network(agent, SPEC, seed=2)
    loss = make_loss(agent)
    together = loss(online.torso(batch.s_tm1), online, target, batch).loss
    for index in range(6):
        tensors: dict[str, Any] = {name: field for name, field in batch._asdict().items() if isinstance(field, torch.Tensor)}
        alone = batch._replace(**{name: tensor[index : index + 1] for name, tensor in tensors.items()})
        torch.testing.assert_close(loss(online.torso(alone.s_tm1), online, target, alone).loss, together[index : index + 1])


@pytest.mark.parametrize("algorithm", sorted(set(ALGORITHMS) - {"m-dqn"}))
def test_double_asks_the_online_network_for_the_action(algorithm: str) -> None:
    """With itself as the target network it makes no difference; with another it does."""
    batch = make_batch()
    results = []
    for other in (1, 2):
        for double in (False, True):
            agent = make_agent(algorithm, double=double)
            online, target = build_network(agent, SPEC, seed=1), build_network(agent, SPEC, seed=other)
            torch.manual_seed(0)
            results.append(make_loss(agent)(online.torso(batch.s_tm1), online, target, batch).loss)
    same, same_double, different, different_double = results
    if algorithm != "iqn":  # of the same fractions in another order
        torch.testing.assert_close(same, same_double, rtol=0, atol=0)
    assert not torch.allclose(different, different_double)


def test_iqn_draws_fractions_from_torchs_generator() -> None:
    agent, batch = make_agent("iqn"), make_batch()
    online, target = build_network(agent, SPEC, seed=1), build_network(agent, SPEC, seed=2)
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(make_loss(agent)(online.torso(batch.s_tm1), online, target, batch).loss)
    assert torch.equal(losses[0], losses[1])
    assert not torch.isclose(losses[0], losses[2]).any()


def test_select_action() -> None:
    values = torch.arange(12.0).reshape(2, 3, 2)
    assert select_action(values, torch.tensor([2, 0])).tolist() == [[4.0, 5.0], [6.0, 7.0]]
    assert select_action(values[..., 0], torch.tensor([2, 0])).tolist() == [4.0, 6.0]


def test_q_targets_stop_at_a_terminal() -> None:
    q_t, selector = torch.tensor([[1.0, 5.0], [1.0, 5.0]]), torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    r_t, discount_t = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0])
    assert q_targets(r_t, discount_t, q_t, q_t).tolist() == [3.5, 2.0]
    assert q_targets(r_t, discount_t, q_t, selector).tolist() == [1.5, 2.0]


def test_td_error_is_squared_or_huber() -> None:
    q, targets = torch.tensor([0.0, 0.0, 0.0]), torch.tensor([0.5, -2.0, 8.0])
    assert TdError(config.Agent(kappa=2.0))(q, targets).tolist() == [0.25, 4.0, 64.0]
    assert TdError(config.Agent(td_loss="huber", kappa=2.0))(q, targets).tolist() == [0.125, 2.0, 14.0]


def test_munchausen_bonus_is_the_scaled_log_policy_from_the_clip_to_zero() -> None:
    q = torch.tensor([[math.log(3.0), 0.0], [0.0, 2.0], [0.0, 1e4]], dtype=torch.float64)
    # The first policy is 3/4 and 1/4; the second sample's action is almost never taken, the third's always.
    bonus = munchausen_bonus(q, torch.tensor([1, 0, 1]), temperature=1.0, clip=-2.0)
    torch.testing.assert_close(bonus, torch.tensor([-math.log(4.0), -2.0, 0.0], dtype=torch.float64))
    assert munchausen_bonus(0.03 * q, torch.tensor([1, 0, 1]), 0.03, -2.0)[0] == pytest.approx(-0.03 * math.log(4.0))


@given(st.floats(1e-3, 10), st.integers(0, 2**32 - 1))
def test_munchausen_target_is_soft(temperature: float, seed: int) -> None:
    """Above the greedy target by at most temperature * log(A), and without a bonus DQN's in the limit."""
    q_t = 5 * torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    r_t, discount_t, bonus = (
        torch.ones(4).double(),
        torch.full((4,), 0.9).double(),
        torch.tensor([0.0, -1.0, 0.0, -1.0]).double(),
    )
    above = munchausen_targets(r_t, discount_t, bonus, q_t, temperature) - bonus - q_targets(r_t, discount_t, q_t, q_t)
    assert (above >= -1e-12).all()
    assert (above <= 0.9 * temperature * math.log(3) + 1e-12).all()


def test_munchausen_at_the_temperature_of_the_paper_in_float32() -> None:
    """Values of tens of thousands over a temperature of 0.03: no overflow."""
    q = torch.tensor([[3e4, -3e4, 0.0]])
    bonus = munchausen_bonus(q, torch.tensor([1]), 0.03, -1.0)
    target = munchausen_targets(torch.zeros(1), torch.ones(1), bonus, q, 0.03)
    torch.testing.assert_close(target, torch.tensor([3e4 - 1]))


@given(
    r_t=st.floats(-30, 30, width=32),
    discount_t=st.sampled_from([0.0, 0.5, 0.99**3, 1.0]),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_projection_keeps_mass_and_where_it_can_the_mean(r_t: float, discount_t: float, seed: int, dtype: torch.dtype) -> None:
    atoms = torch.linspace(-10, 10, 51, dtype=dtype)
    probabilities = torch.randn(1, 51, generator=torch.Generator().manual_seed(seed)).mul(3).to(dtype).softmax(dim=-1)
    reward, discount = torch.tensor([r_t], dtype=dtype), torch.tensor([discount_t], dtype=dtype)
    projected = project_distribution(reward, discount, probabilities, atoms)
    assert (projected >= 0).all()
    torch.testing.assert_close(projected.sum(), torch.ones((), dtype=dtype), rtol=0, atol=1e-5)
    clipped = (reward + discount * atoms).clamp(-10, 10)
    torch.testing.assert_close(projected @ atoms, (clipped @ probabilities[0])[None], rtol=0, atol=1e-4)


def test_categorical_loss_of_a_sure_prediction_in_float32() -> None:
    """Logits as far apart as they get: finite, at least 0, and at most the distance."""
    logits = torch.tensor([[300.0, 0.0, -300.0], [0.0, 0.0, 0.0], [1e-30, 0.0, 0.0]])
    targets = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(cross_entropy(logits, targets), torch.tensor([0.0, math.log(3), math.log(3)]))
    assert cross_entropy(logits, targets.flip(1))[0] == 600.0
    assert (priorities(cross_entropy(logits, targets), 0.5) > 0).all()


def test_expected_values() -> None:
    logits = torch.log(torch.tensor([[[0.25, 0.5, 0.25], [1e-30, 0.5, 0.5]]]))
    torch.testing.assert_close(expected_values(logits, torch.tensor([-1.0, 0.0, 2.0])), torch.tensor([[0.25, 1.0]]))


def test_importance_weights() -> None:
    probability = torch.tensor([1e-8, 4e-8], dtype=torch.float64)
    torch.testing.assert_close(importance_weights(probability), torch.tensor([1.0, 0.5]))
    torch.testing.assert_close(importance_weights(probability, exponent=1.0), torch.tensor([1.0, 0.25]))
    assert importance_weights(probability, exponent=0.0).tolist() == [1.0, 1.0]
    assert importance_weights(torch.full((3,), 1e-6, dtype=torch.float64)).tolist() == [1.0, 1.0, 1.0]


def test_priorities() -> None:
    result = priorities(torch.tensor([0.0, 4.0]), 0.5)
    torch.testing.assert_close(result, torch.tensor([1e-5, 2.0], dtype=torch.float64))
