"""Networks, their serialization, and the policy that acts with them."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch

from sbrl import config
from sbrl.envs.spec import EnvSpec
from sbrl.errors import RunError, UsageError
from sbrl.networks.build import build_network
from sbrl.networks.serialization import decode, encode, load_weights
from sbrl.policy import EpsilonGreedyPolicy

FRAMES = EnvSpec(6, (84, 84), np.dtype(np.uint8), 4, "frames", True)
GRID = EnvSpec(3, (7, 10, 10), np.dtype(np.uint8), 1, "grid", False)
VECTOR = EnvSpec(2, (4,), np.dtype(np.float32), 1, "vector", False)
AGENT = config.Agent(hidden_size=32, num_quantiles=11)


def observe(spec: EnvSpec, batch_size: int, seed: int = 0) -> npt.NDArray[np.generic]:
    generator = np.random.default_rng(seed)
    shape = (batch_size, *spec.observation_shape)
    return generator.integers(0, 256 if spec.kind == "frames" else 2, size=shape).astype(spec.frame_dtype)


@pytest.mark.parametrize("spec", [FRAMES, GRID, VECTOR], ids=lambda spec: spec.kind)
def test_quantiles_have_a_row_for_each_action(spec: EnvSpec) -> None:
    observation = torch.from_numpy(observe(spec, 5))
    network = build_network(AGENT, spec)
    quantiles = network(observation)
    assert quantiles.shape == (5, spec.num_actions, 11)
    assert quantiles.dtype == torch.float32
    torch.testing.assert_close(network.q_values(observation), quantiles.mean(dim=2))


def test_nature_cnn_has_the_published_size() -> None:
    network = build_network(config.Agent(), FRAMES)
    convolutions = 4 * 64 * 32 + 32 + 32 * 16 * 64 + 64 + 64 * 9 * 64 + 64
    dense = 3136 * 512 + 512
    assert sum(p.numel() for p in network.parameters()) == convolutions + dense + 512 * 1200 + 1200


def test_smallest_frame_the_config_allows() -> None:
    spec = FRAMES._replace(frame_shape=(36, 36))
    assert build_network(AGENT, spec)(torch.from_numpy(observe(spec, 1))).shape == (1, 6, 11)


def test_frames_are_scaled_to_one_and_grids_are_not() -> None:
    for spec, factor in ((FRAMES, 255.0), (GRID, 1.0)):
        network = build_network(AGENT, spec)
        observation = torch.from_numpy(observe(spec, 2))
        seen: list[torch.Tensor] = []
        network.torso.layers[0].register_forward_pre_hook(lambda _module, inputs, seen=seen: seen.append(inputs[0]))
        network(observation)
        torch.testing.assert_close(seen[0] * factor, observation.reshape(seen[0].shape).float())


def test_vectors_are_not_overwritten() -> None:
    observation = torch.from_numpy(observe(VECTOR, 3)) - 0.5
    before = observation.clone()
    build_network(AGENT, VECTOR)(observation)
    assert torch.equal(observation, before)


def test_initialisation_depends_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    global_state = torch.get_rng_state()
    first = build_network(AGENT, FRAMES, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), global_state)
    torch.manual_seed(2)
    second, other = build_network(AGENT, FRAMES, seed=3).state_dict(), build_network(AGENT, FRAMES, seed=4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_initialisation_is_dopamines() -> None:
    network = build_network(config.Agent(), FRAMES)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            assert parameter.count_nonzero() == 0
        else:
            bound = math.sqrt(math.sqrt(3) / parameter[0].numel())
            assert 0.99 * bound < parameter.abs().max() <= bound
            assert parameter.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)


@pytest.mark.parametrize(
    ("torso", "spec", "message"),
    [
        ("nature-cnn", VECTOR, "needs an image"),
        ("nature-cnn", GRID, "36x36 or more"),
        ("minatar-conv", VECTOR, "needs an image"),
    ],
)
def test_torso_that_cannot_take_the_observation(
    torso: Literal["nature-cnn", "minatar-conv"], spec: EnvSpec, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        build_network(config.Agent(torso=torso), spec)


def test_serialization_returns_the_same_weights() -> None:
    network, other = build_network(AGENT, FRAMES, seed=1), build_network(AGENT, FRAMES, seed=2)
    load_weights(other, decode(encode(network.state_dict())))
    for (name, expected), found in zip(network.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(expected, found), name
        assert expected.stride() == found.stride(), f"{name}: the memory layout was lost"


@pytest.mark.parametrize("damage", ["truncated", "header", "empty"])
def test_corrupt_weights_are_refused(damage: str) -> None:
    data = encode(build_network(AGENT, VECTOR).state_dict())
    damaged = {"truncated": data[:-1], "header": b"\xff" * 16 + data[16:], "empty": b""}[damage]
    with pytest.raises(RunError, match="corrupt"):
        decode(damaged)


def test_weights_of_another_network_are_refused_whole() -> None:
    network = build_network(AGENT, VECTOR)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(RunError, match=r"head.bias is \(33,\), the network has \(22,\)"):
        load_weights(network, build_network(AGENT, VECTOR._replace(num_actions=3)).state_dict())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("spec", [FRAMES, VECTOR], ids=lambda spec: spec.kind)
def test_policy_acts_on_the_networks_values(spec: EnvSpec) -> None:
    policy = EpsilonGreedyPolicy(build_network(AGENT, spec), spec.num_actions, seed=0)
    trained = build_network(AGENT, spec, seed=1)
    policy.load(trained.state_dict())
    observation = observe(spec, 16)
    with torch.no_grad():
        expected = trained.q_values(torch.from_numpy(observation)).numpy()
    np.testing.assert_allclose(policy.q_values(observation), expected, rtol=1e-4, atol=1e-6)
    assert (policy.act(observation, epsilon=0.0) == expected.argmax(axis=1)).all()


def test_policy_explores_with_probability_epsilon_and_repeats_from_its_seed() -> None:
    first, second = (EpsilonGreedyPolicy(build_network(AGENT, VECTOR), VECTOR.num_actions, seed=5) for _ in range(2))
    observation = observe(VECTOR, 4000)
    greedy = first.act(observation, epsilon=0.0)
    assert second.act(observation, epsilon=0.0).dtype == np.int64
    mixed = first.act(observation, epsilon=0.5)
    assert (mixed == second.act(observation, epsilon=0.5)).all()
    # A random action is the greedy one half of the time, for there are two.
    assert (mixed != greedy).mean() == pytest.approx(0.25, abs=0.03)
    assert first.act(observation, epsilon=1.0).mean() == pytest.approx(0.5, abs=0.03)
