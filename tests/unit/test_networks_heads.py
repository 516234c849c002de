"""Heads, dueling streams and noisy layers against plain formulas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sbrl import config
from sbrl.envs.spec import EnvSpec
from sbrl.networks.build import build_network
from sbrl.networks.heads.base import Head
from sbrl.networks.heads.categorical import CategoricalHead
from sbrl.networks.heads.implicit_quantile import ImplicitQuantileHead
from sbrl.networks.heads.quantile import QuantileHead
from sbrl.networks.noisy import NoisyLinear
from sbrl.networks.output_layers import DuelingOutput, PlainOutput

VECTOR = EnvSpec(3, (4,), np.dtype(np.float32), 1, "vector", False)
ACTIONS, FEATURES = 3, 16


def make_head(seed: int = 1, **agent: Any) -> Head:
    sizes = {"hidden_size": FEATURES, "num_quantiles": 7, "num_atoms": 5, "v_min": -3.0, "v_max": 5.0}
    head = build_network(config.Agent(**(sizes | agent)), VECTOR, seed).head.double()
    for module in head.modules():
        if isinstance(module, nn.Linear):  # biases start at 0, which would hide that they are forgotten
            nn.init.normal_(module.bias, generator=torch.Generator().manual_seed(seed))
    return head


def make_noisy(inputs: int = 5, outputs: int = 4) -> NoisyLinear:
    layer = NoisyLinear(inputs, outputs, sigma=0.5).double()
    layer.initialise(torch.Generator().manual_seed(1))
    return layer


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("algorithm", ["dqn", "c51", "qr-dqn"])
@pytest.mark.parametrize("noisy", [False, True])
def test_dueling_is_value_plus_advantage_minus_its_mean(algorithm: str, noisy: bool) -> None:
    head, features = make_head(algorithm=algorithm, dueling=True, noisy=noisy), draw(6, FEATURES)
    output = head.output
    assert isinstance(output, DuelingOutput)
    outputs = head(features).view(6, ACTIONS, -1)
    value, advantage = output.value.layer(features), output.advantage.layer(features).view(6, ACTIONS, -1)
    torch.testing.assert_close(outputs.mean(dim=1), value)  # the advantages' mean is 0, for each atom or quantile
    torch.testing.assert_close(outputs[:, 0] - outputs[:, 1], advantage[:, 0] - advantage[:, 1])


def test_dueling_quantiles_at_any_fraction() -> None:
    head, features, tau = make_head(algorithm="iqn", dueling=True), draw(2, FEATURES), draw(2, 5).sigmoid()
    assert isinstance(head, ImplicitQuantileHead)
    assert isinstance(head.output, DuelingOutput)
    value = head.output.value.layer(head.hidden(features[:, None] * head.embed(tau))).squeeze(-1)
    torch.testing.assert_close(head.quantiles(features, tau).mean(dim=1), value)


def test_categorical_values_are_the_distributions_means() -> None:
    head, features = make_head(algorithm="c51"), draw(6, FEATURES)
    assert isinstance(head, CategoricalHead)
    atoms = np.array([-3, -1, 1, 3, 5.0])
    np.testing.assert_allclose(head.atoms.numpy(), atoms)
    logits = head(features).detach().numpy()
    assert logits.shape == (6, ACTIONS, 5)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(head.q_values(features).detach().numpy(), (probabilities * atoms).sum(axis=-1))


def test_quantile_values_are_the_quantiles_means() -> None:
    head, features = make_head(algorithm="qr-dqn"), draw(6, FEATURES)
    assert head(features).shape == (6, ACTIONS, 7)
    torch.testing.assert_close(head.q_values(features), head(features).mean(dim=2))


def test_only_a_plain_quantile_head_is_folded_to_act() -> None:
    features = draw(6, FEATURES)
    head = make_head(algorithm="qr-dqn")
    assert isinstance(head, QuantileHead)
    values, before = head.acting(), head.q_values(features)
    torch.testing.assert_close(values(features), before)
    assert isinstance(head.output, PlainOutput)
    with torch.no_grad():
        head.output.layer.bias.add_(1)
    torch.testing.assert_close(values(features), before)  # the weights of then
    torch.testing.assert_close(head.acting()(features), before + 1)
    for changed in ({"dueling": True}, {"noisy": True}):
        head = make_head(algorithm="qr-dqn", **changed)
        torch.testing.assert_close(head.acting()(features), head.q_values(features))


def test_implicit_quantiles_are_their_formula() -> None:
    head = make_head(algorithm="iqn", tau_embedding_size=6, hidden_size=16)
    assert isinstance(head, ImplicitQuantileHead)
    features, tau = draw(2, FEATURES), torch.tensor([[0.0, 0.3, 1.0], [0.5, 0.25, 0.9]], dtype=torch.float64)
    weight, bias = (parameter.detach().numpy() for parameter in head.embedding.parameters())
    assert weight.shape == (FEATURES, 6)
    expected = np.zeros((2, 3, FEATURES))
    for row, sample, feature in np.ndindex(expected.shape):
        total = bias[feature]
        for i in range(6):
            total += math.cos(math.pi * (i + 1) * tau[row, sample].item()) * weight[feature, i]
        expected[row, sample, feature] = max(0.0, total)
    np.testing.assert_allclose(head.embed(tau).detach().numpy(), expected)

    quantiles = head.quantiles(features, tau)
    assert quantiles.shape == (2, ACTIONS, 3)
    for row, sample in np.ndindex(2, 3):
        hidden = head.hidden(features[row] * torch.from_numpy(expected[row, sample]))
        torch.testing.assert_close(quantiles[row, :, sample], head.output(hidden).squeeze(-1))


def test_implicit_quantiles_draw_their_fractions_anew_for_each_row() -> None:
    head = make_head(algorithm="iqn", num_policy_samples=9)
    assert isinstance(head, ImplicitQuantileHead)
    features = draw(4, FEATURES)
    torch.manual_seed(5)
    tau = head.sample_tau(4, 9)
    assert tau.shape == (4, 9)
    assert tau.unique().numel() == 36
    assert ((tau >= 0) & (tau < 1)).all()
    expected = head.quantiles(features, tau)
    for _ in range(2):
        torch.manual_seed(5)
        torch.testing.assert_close(head(features), expected)
        torch.manual_seed(5)
        torch.testing.assert_close(head.q_values(features), expected.mean(dim=2))
    assert not torch.isclose(head.q_values(features), expected.mean(dim=2)).all()


def test_noise_is_factorised() -> None:
    layer, inputs = make_noisy(), draw(7, 5)
    noise = torch.outer(layer.noise_out, layer.noise_in)
    assert torch.linalg.matrix_rank(noise) == 1
    weight, bias = layer.weight + layer.weight_sigma * noise, layer.bias + layer.bias_sigma * layer.noise_out
    expected = inputs @ weight.T + bias
    torch.testing.assert_close(layer(inputs), expected)
    parameters = list(layer.parameters())
    gradients = torch.autograd.grad(layer(inputs).square().sum(), parameters)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected.square().sum(), parameters))
    assert all(gradient.count_nonzero() > 0 for gradient in gradients)


def test_noise_has_the_published_distribution() -> None:
    torch.manual_seed(0)
    layer = make_noisy(inputs=100_000, outputs=1)
    layer.resample()
    noise = layer.noise_in
    # f(e) = sign(e) sqrt(|e|) of a standard normal e: mean 0, and mean of squares E|e|.
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.square().mean().item() == pytest.approx(math.sqrt(2 / math.pi), abs=0.01)
    assert (noise.abs() < 0.5).double().mean().item() == pytest.approx(math.erf(0.25 / math.sqrt(2)), abs=0.01)  # |e| < 1/4


def test_resampling_draws_from_the_global_generator_into_the_same_buffers() -> None:
    layer, inputs = make_noisy(), draw(7, 5)
    torch.manual_seed(3)
    layer.resample()
    first, expected = layer.noise_in.clone(), layer.noise_out.clone()
    places = (layer.noise_in.data_ptr(), layer.noise_out.data_ptr())
    outputs = layer(inputs)
    layer.resample()
    assert not torch.isclose(layer.noise_in, first).any()
    assert (layer.noise_in.data_ptr(), layer.noise_out.data_ptr()) == places
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.sum().backward()  # of noise that is gone
    torch.manual_seed(3)
    layer.resample()
    assert torch.equal(layer.noise_in, first)
    assert torch.equal(layer.noise_out, expected)


def test_evaluation_uses_the_mean_weights() -> None:
    layer, inputs = make_noisy(), draw(7, 5)
    layer.eval()
    torch.testing.assert_close(layer(inputs), inputs @ layer.weight.T + layer.bias)
