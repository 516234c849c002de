"""Whole networks: sizes, initialisation, serialization, and which fit an environment."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from sbrl import config
from sbrl.config.algorithms import ALGORITHMS
from sbrl.envs.spec import EnvSpec
from sbrl.errors import RunError, UsageError
from sbrl.networks.build import build_network, count_parameters
from sbrl.networks.checks import check_network, torso_name
from sbrl.networks.heads import scalar
from sbrl.networks.heads.scalar import ScalarHead
from sbrl.networks.noisy import NoisyLinear
from sbrl.networks.serialization import copy_tensors, decode, encode

FRAMES = EnvSpec(6, (84, 84), np.dtype(np.uint8), 4, "frames", True)
SMALL_FRAMES = FRAMES._replace(frame_shape=(36, 36))
GRID = EnvSpec(3, (7, 10, 10), np.dtype(np.uint8), 1, "grid", False)
VECTOR = EnvSpec(2, (4,), np.dtype(np.float32), 1, "vector", False)
AGENT = config.Agent(hidden_size=32, num_quantiles=11)

TORSOS = {"nature-cnn": SMALL_FRAMES, "impala": GRID, "minatar-conv": GRID, "mlp": VECTOR}
ONE_PER_HEAD = list({algorithm.head: name for name, algorithm in reversed(ALGORITHMS.items())}.values())
OUTPUTS = {"dqn": (), "c51": (5,), "qr-dqn": (7,), "iqn": (4,)}  # what there is for each action


def make_agent(**changes: Any) -> config.Agent:
    sizes = {"hidden_size": 16, "num_quantiles": 7, "num_atoms": 5, "v_min": -3.0, "v_max": 3.0, "num_policy_samples": 4}
    return config.Agent(**(sizes | changes))


def observe(spec: EnvSpec, batch_size: int, seed: int = 0) -> npt.NDArray[np.generic]:
    generator = np.random.default_rng(seed)
    shape = (batch_size, *spec.observation_shape)
    return generator.integers(0, 256 if spec.kind == "frames" else 2, size=shape).astype(spec.frame_dtype)


@pytest.mark.parametrize(
    ("torso", "algorithm", "dueling", "noisy"), list(itertools.product(TORSOS, ONE_PER_HEAD, (False, True), (False, True)))
)
def test_every_combination_has_values_that_agree_and_gradients_everywhere(
    torso: str, algorithm: str, dueling: bool, noisy: bool
) -> None:
    spec = TORSOS[torso]
    agent = make_agent(torso=torso, algorithm=algorithm, dueling=dueling, noisy=noisy, width_scale=0.5)
    network = build_network(agent, spec, seed=1)
    observation = torch.from_numpy(observe(spec, 5))

    torch.manual_seed(2)
    outputs = network(observation)
    assert outputs.shape == (5, spec.num_actions, *OUTPUTS.get(algorithm, outputs.shape[2:]))
    assert outputs.dtype == torch.float32
    torch.manual_seed(2)
    values = network.q_values(observation)
    assert values.shape == (5, spec.num_actions)
    assert values.std() > 0
    torch.manual_seed(2)
    torch.testing.assert_close(network.head.acting()(network.torso(observation)), values)

    (outputs.square().sum() + values.square().sum()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.count_nonzero() > 0, name
    assert sum(parameter.numel() for parameter in network.parameters()) == count_parameters(agent, spec)


CONVOLUTIONS = 77_984  # (4 * 8*8 + 1) * 32 + (32 * 4*4 + 1) * 64 + (64 * 3*3 + 1) * 64
DENSE = (3136 + 1) * 512
# (4*9 + 1) * 64 + 4 * (64*9 + 1) * 64, (64*9 + 1) * 128 + 4 * (128*9 + 1) * 128, 5 * (128*9 + 1) * 128
IMPALA_4 = 2_368 + 147_712 + 73_856 + 590_336 + 737_920


@pytest.mark.parametrize(
    ("settings", "num_actions", "parameters"),
    [
        ({"algorithm": "dqn"}, 4, 1_686_180),  # the number everyone has for DQN on Breakout
        ({"algorithm": "qr-dqn", "num_quantiles": 200}, 6, CONVOLUTIONS + DENSE + 513 * 1200),
        ({"algorithm": "c51"}, 6, CONVOLUTIONS + DENSE + 513 * 6 * 51),
        # Dopamine's order: embedding of 64 cosines, product with the 3136 features, dense layer, output.
        ({"algorithm": "iqn"}, 6, CONVOLUTIONS + 65 * 3136 + DENSE + 513 * 6),
        # Full Rainbow: twice the parameters in each dense layer, one stream of 51 atoms and one of 6 * 51.
        ({"algorithm": "c51", "dueling": True, "noisy": True}, 6, CONVOLUTIONS + 2 * (DENSE + 513 * 7 * 51)),
        ({"algorithm": "dqn", "layer_norm": True}, 4, 1_686_180 + 2 * (32 + 64 + 64 + 512)),
        ({"algorithm": "dqn", "torso": "impala"}, 4, 97_744 + (32 * 11 * 11 + 1) * 512 + 513 * 4),
        # BBF: four times as wide, dense layer of 2048 on 128 x 11 x 11.
        (
            {"algorithm": "c51", "torso": "impala", "width_scale": 4, "hidden_size": 2048, "dueling": True},
            18,
            IMPALA_4 + (128 * 11 * 11 + 1) * 2048 + 2049 * 19 * 51,
        ),
    ],
    ids=["dqn", "qr-dqn", "c51", "iqn", "full-rainbow", "layer-norm", "impala", "bbf"],
)
def test_networks_have_the_published_sizes(settings: dict[str, Any], num_actions: int, parameters: int) -> None:
    agent = config.Agent(v_min=-10, v_max=10, **settings)
    assert count_parameters(agent, FRAMES._replace(num_actions=num_actions)) == parameters


def test_minatar_network_has_the_published_size() -> None:
    agent = config.Agent(algorithm="dqn", hidden_size=128)
    spec = GRID._replace(frame_shape=(4, 10, 10), num_actions=6)  # Breakout; Young and Tian's network has 128 units
    assert count_parameters(agent, spec) == (4 * 9 + 1) * 16 + (16 * 8 * 8 + 1) * 128 + 129 * 6


@pytest.mark.parametrize("noisy", [False, True])
def test_initialisation_depends_on_the_seed_alone(noisy: bool) -> None:
    agent = make_agent(algorithm="c51", dueling=True, noisy=noisy)
    observation = torch.from_numpy(observe(FRAMES, 1))
    torch.manual_seed(1)
    global_state = torch.get_rng_state()
    first = build_network(agent, FRAMES, seed=3)
    assert torch.equal(torch.get_rng_state(), global_state)
    torch.manual_seed(2)
    second, other = build_network(agent, FRAMES, seed=3), build_network(agent, FRAMES, seed=4)
    for (name, expected), found in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(expected, found), name
    assert torch.equal(first(observation), second(observation))  # the first noise is the seed's as well
    assert not torch.equal(first(observation), other(observation))


def test_initialisation_is_dopamines_for_plain_layers_and_fortunatos_for_noisy_ones() -> None:
    for agent in (config.Agent(layer_norm=True), config.Agent(noisy=True, noisy_sigma=0.1)):
        for module in build_network(agent, FRAMES).modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                bound = math.sqrt(math.sqrt(3) / module.weight[0].numel())
                assert module.bias is not None
                assert module.bias.count_nonzero() == 0
            elif isinstance(module, NoisyLinear):
                bound = 1 / math.sqrt(module.weight.shape[1])
                assert 0.9 * bound < module.bias.abs().max() <= bound
                for sigma in (module.weight_sigma, module.bias_sigma):
                    assert torch.equal(sigma, torch.full_like(sigma, 0.1 * bound))
            elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
                assert torch.equal(module.weight, torch.ones_like(module.weight))
                assert module.bias.count_nonzero() == 0
                continue
            else:
                continue
            assert 0.99 * bound < module.weight.abs().max() <= bound
            assert module.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)


def test_initialisation_is_glorots_where_asked() -> None:
    for agent in (config.Agent(initial_weights="glorot"), config.Agent(initial_weights="glorot", dueling=True)):
        for module in build_network(agent, FRAMES).modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                area = module.weight[0, 0].numel()
                bound = math.sqrt(6 / ((module.weight.shape[0] + module.weight.shape[1]) * area))
                assert 0.99 * bound < module.weight.abs().max() <= bound
                assert module.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
                assert module.bias is not None
                assert module.bias.count_nonzero() == 0


def test_a_head_whose_parameters_nothing_would_initialise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Careless(ScalarHead):
        def __init__(self, agent: config.Agent, num_features: int, num_actions: int) -> None:
            super().__init__(agent, num_features, num_actions)
            self.temperature = nn.Parameter(torch.ones(1))

    monkeypatch.setattr(scalar, "ScalarHead", Careless)
    with pytest.raises(TypeError, match="Careless has parameters or buffers of its own, but no method initialise"):
        build_network(make_agent(algorithm="dqn"), VECTOR)


def test_noise_is_new_when_resampled_and_absent_in_evaluation_mode() -> None:
    network = build_network(make_agent(algorithm="dqn", noisy=True), VECTOR)
    observation = torch.from_numpy(observe(VECTOR, 3))
    first = network.q_values(observation)
    assert torch.equal(network.q_values(observation), first)
    network.resample_noise()
    assert not torch.isclose(network.q_values(observation), first).any()
    network.eval()
    mean = network.q_values(observation)
    network.resample_noise()
    assert torch.equal(network.q_values(observation), mean)


def test_networks_compute_in_the_precision_of_their_parameters() -> None:
    agent = make_agent(algorithm="c51", dueling=True, noisy=True)
    network, observation = build_network(agent, FRAMES), torch.from_numpy(observe(FRAMES, 2))
    values = network.q_values(observation)
    network.double()
    assert network.q_values(observation).dtype == torch.float64
    torch.testing.assert_close(network.q_values(observation).float(), values)


@pytest.mark.parametrize(
    ("torso", "spec", "message"),
    [
        ("nature-cnn", VECTOR, "needs an image"),
        ("nature-cnn", GRID, "36x36 or more"),
        ("impala", VECTOR, "needs an image"),
        ("impala", GRID._replace(frame_shape=(7, 7, 10)), "8x8 or more"),
        ("minatar-conv", VECTOR, "needs an image"),
    ],
)
def test_torso_that_cannot_take_the_observation_is_refused(torso: str, spec: EnvSpec, message: str) -> None:
    tree = config.build({"agent": {"torso": torso}})
    for refuse in (lambda: build_network(tree.agent, spec), lambda: check_network(tree, spec)):
        with pytest.raises(UsageError, match=message):
            refuse()


@pytest.mark.parametrize(
    ("settings", "spec", "message"),
    [
        ({"agent": {"spr_weight": 5}}, VECTOR, r"agent\.spr_weight=5: .* the torso is mlp; set agent\.spr_weight=0"),
        ({"learner": {"random_shift": 4}}, VECTOR, r"learner\.random_shift=4 changes images, .* shape \(4,\)"),
        ({"learner": {"intensity_jitter": 0.05}}, VECTOR, r"learner\.intensity_jitter=0\.05 changes images"),
        ({"agent": {"spr_weight": 5}, "learner": {"random_shift": 4, "intensity_jitter": 0.05}}, FRAMES, None),
        ({"agent": {"spr_weight": 5}, "learner": {"random_shift": 1}}, GRID, None),
        ({}, VECTOR, None),
    ],
)
def test_what_needs_images_is_refused_without_them(settings: dict[str, Any], spec: EnvSpec, message: str | None) -> None:
    tree = config.build(settings)
    if message is None:
        check_network(tree, spec)
    else:
        with pytest.raises(UsageError, match=message):
            check_network(tree, spec)


def test_auto_chooses_the_torso_by_what_is_observed() -> None:
    assert [torso_name(config.Agent(), spec) for spec in (FRAMES, GRID, VECTOR)] == ["nature-cnn", "minatar-conv", "mlp"]
    assert torso_name(config.Agent(torso="impala"), FRAMES) == "impala"


def test_a_launcher_can_check_without_torch() -> None:
    code = "import sys, sbrl.networks.checks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_serialization_returns_the_same_weights() -> None:
    network, other = build_network(AGENT, FRAMES, seed=1), build_network(AGENT, FRAMES, seed=2)
    copy_tensors(other.state_dict(), decode(encode(network.state_dict())), "weights")
    for (name, expected), found in zip(network.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(expected, found), name
        assert expected.stride() == found.stride(), f"{name}: the memory layout was lost"


def test_weights_are_the_parameters_and_nothing_else() -> None:
    network = build_network(make_agent(algorithm="c51", noisy=True), VECTOR)
    assert network.state_dict().keys() == dict(network.named_parameters()).keys()  # neither noise nor atoms


@pytest.mark.parametrize("damage", ["truncated", "header", "empty"])
def test_corrupt_weights_are_refused(damage: str) -> None:
    data = encode(build_network(AGENT, VECTOR).state_dict())
    damaged = {"truncated": data[:-1], "header": b"\xff" * 16 + data[16:], "empty": b""}[damage]
    with pytest.raises(RunError, match="corrupt"):
        decode(damaged)


def test_weights_of_another_network_are_refused_whole() -> None:
    network = build_network(AGENT, VECTOR)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(RunError, match=r"bias is \(33,\), the network has \(22,\)"):
        copy_tensors(network.state_dict(), build_network(AGENT, VECTOR._replace(num_actions=3)).state_dict(), "weights")
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
