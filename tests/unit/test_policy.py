"""The policy that actors and the evaluator act with."""

from __future__ import annotations

import copy
import threading
from typing import Any

import numpy as np
import pytest
import torch

from sbrl import config
from sbrl.envs.spec import EnvSpec
from sbrl.errors import RunError
from sbrl.networks.build import build_network
from sbrl.networks.policy import EpsilonGreedyPolicy, seed_torch
from services.evaluator.protocol import evaluate_weights

FRAMES = EnvSpec(6, (36, 36), np.dtype(np.uint8), 4, "frames", True)
VECTOR = EnvSpec(2, (4,), np.dtype(np.float32), 1, "vector", False)


def make_agent(**changes: Any) -> config.Agent:
    return config.Agent(**({"hidden_size": 32, "num_quantiles": 11, "v_min": -10, "v_max": 10} | changes))


def make_policy(spec: EnvSpec, noise: bool = False, seed: int = 5, **agent: Any) -> EpsilonGreedyPolicy:
    return EpsilonGreedyPolicy(build_network(make_agent(**agent), spec), spec.num_actions, seed, noise)


def observe(spec: EnvSpec, batch_size: int) -> np.ndarray[Any, Any]:
    generator = np.random.default_rng(0)
    if spec.kind == "vector":
        return generator.normal(size=(batch_size, *spec.observation_shape)).astype(np.float32)
    return generator.integers(0, 256, size=(batch_size, *spec.observation_shape)).astype(np.uint8)


@pytest.mark.parametrize(
    "agent", [{"algorithm": name} for name in ("dqn", "c51", "qr-dqn", "iqn")] + [{"noisy": True}], ids=str
)
@pytest.mark.parametrize("spec", [FRAMES, VECTOR], ids=lambda spec: spec.kind)
def test_half_precision_acts_on_nearly_the_same_values(spec: EnvSpec, agent: dict[str, Any]) -> None:
    network = build_network(make_agent(**agent), spec)
    exact = EpsilonGreedyPolicy(copy.deepcopy(network), spec.num_actions, 0)
    half = EpsilonGreedyPolicy(network, spec.num_actions, 0, precision="bfloat16")
    weights = build_network(make_agent(**agent), spec, seed=1).state_dict()
    observation, values = observe(spec, 16), []
    for policy in (exact, half):
        policy.load(weights)
        seed_torch(4)
        values.append(policy.q_values(observation))
    assert values[1].dtype == np.float32
    scale = np.abs(values[0]).max()
    assert 0 < np.abs(values[1] - values[0]).max() < 0.2 * scale  # of IQN, the fractions are others, too
    assert half.act(observation, epsilon=0.0).shape == (16,)


@pytest.mark.parametrize("algorithm", ["dqn", "c51", "qr-dqn", "iqn"])
@pytest.mark.parametrize("spec", [FRAMES, VECTOR], ids=lambda spec: spec.kind)
def test_acts_on_the_values_of_the_weights_it_was_given(spec: EnvSpec, algorithm: str) -> None:
    policy = make_policy(spec, algorithm=algorithm)
    trained = build_network(make_agent(algorithm=algorithm), spec, seed=1)
    policy.load(trained.state_dict())
    observation = observe(spec, 16)
    seed_torch(4)
    with torch.no_grad():
        expected = trained.q_values(torch.from_numpy(observation)).numpy()
    seed_torch(4)
    np.testing.assert_allclose(policy.q_values(observation), expected, rtol=1e-4, atol=1e-6)
    seed_torch(4)
    assert (policy.act(observation, epsilon=0.0) == expected.argmax(axis=1)).all()


def test_explores_with_probability_epsilon_and_repeats_from_its_seed() -> None:
    first, second = (make_policy(VECTOR) for _ in range(2))
    observation = observe(VECTOR, 4000)
    greedy = first.act(observation, epsilon=0.0)
    assert second.act(observation, epsilon=0.0).dtype == np.int64
    mixed = first.act(observation, epsilon=0.5)
    assert (mixed == second.act(observation, epsilon=0.5)).all()
    # A random action is the greedy one half of the time, because there are two actions.
    assert (mixed != greedy).mean() == pytest.approx(0.25, abs=0.03)
    assert first.act(observation, epsilon=1.0).mean() == pytest.approx(0.5, abs=0.03)


def test_each_environment_may_have_an_epsilon_of_its_own() -> None:
    policy, observation = make_policy(VECTOR), observe(VECTOR, 6000)
    greedy = policy.act(observation, epsilon=0.0)
    mixed = policy.act(observation, epsilon=np.repeat([0.0, 0.2, 1.0], 2000))
    differs = (mixed != greedy).reshape(3, 2000).mean(axis=1)
    np.testing.assert_allclose(differs, [0, 0.1, 0.5], atol=0.04)
    assert differs[0] == 0
    one_for_all, each = make_policy(VECTOR), make_policy(VECTOR)
    assert (one_for_all.act(observation, 0.3) == each.act(observation, np.full(6000, 0.3))).all()


def test_noise_is_drawn_for_each_batch_of_actions_when_training_and_left_out_otherwise() -> None:
    observation = observe(VECTOR, 64)
    network = build_network(make_agent(algorithm="dqn", noisy=True), VECTOR).eval()
    with torch.no_grad():
        mean = network.q_values(torch.from_numpy(observation)).numpy()

    def play(noise: bool, seed: int) -> list[np.ndarray[Any, Any]]:
        policy = make_policy(VECTOR, noise, algorithm="dqn", noisy=True)
        seed_torch(seed)
        seen = []
        for _ in range(3):
            policy.act(observation, epsilon=0.0)
            seen.append(policy.q_values(observation))
        return seen

    first, second, third = play(noise=True, seed=1)
    assert not np.isclose(first, second).any()
    assert not np.isclose(second, third).any()
    np.testing.assert_array_equal([first, second, third], play(noise=True, seed=1))
    assert not np.isclose(first, play(noise=True, seed=2)[0]).any()
    for values in play(noise=False, seed=1):
        np.testing.assert_allclose(values, mean, rtol=1e-5)


def test_warm_up_neither_draws_noise_nor_looks_at_the_network() -> None:
    policy = make_policy(VECTOR, noise=True, noisy=True)
    state = torch.get_rng_state()
    policy.act(observe(VECTOR, 4), epsilon=np.ones(4))
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_of_another_network_leave_the_policy_as_it_was() -> None:
    policy, observation = make_policy(VECTOR), observe(VECTOR, 8)
    before = policy.q_values(observation)
    with pytest.raises(RunError, match="do not fit"):
        policy.load(build_network(make_agent(dueling=True), VECTOR).state_dict())
    np.testing.assert_array_equal(policy.q_values(observation), before)


@pytest.mark.parametrize("agent", [{"algorithm": "iqn"}, {"algorithm": "dqn", "noisy": True, "exploration": "noisy-nets"}])
def test_evaluations_repeat_where_acting_draws_random_numbers(agent: dict[str, Any]) -> None:
    tree = config.build({"env": {"id": "CartPole-v1"}, "agent": {"hidden_size": 8} | agent, "evaluator": {"episodes": 3}})
    weights = build_network(tree.agent, VECTOR, seed=1).state_dict()

    def lengths() -> list[int]:
        result = evaluate_weights(tree, weights, 5, threading.Event(), lambda *episode: None)
        assert result is not None
        return [int(length) for length in result.lengths]

    seed_torch(1)
    first = lengths()
    seed_torch(2)
    assert lengths() == first
