"""Torsos against plain formulas on their own parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sbrl import config
from sbrl.envs.spec import EnvSpec
from sbrl.networks.build import build_network
from sbrl.networks.torsos import Torso, renormalize

FRAMES = EnvSpec(6, (84, 84), np.dtype(np.uint8), 4, "frames", True)
GRID = EnvSpec(3, (7, 10, 10), np.dtype(np.uint8), 1, "grid", False)
VECTOR = EnvSpec(2, (4,), np.dtype(np.float32), 1, "vector", False)
SMALL = FRAMES._replace(frame_shape=(36, 36), stack=2)


def make_torso(spec: EnvSpec, **agent: Any) -> Torso:
    """In float64, and with norms that are not the identity."""
    torso = build_network(config.Agent(**({"hidden_size": 32} | agent)), spec, seed=1).torso.double()
    generator = torch.Generator().manual_seed(3)
    for parameter in torso.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, generator=generator)
    return torso


def observe(spec: EnvSpec, batch_size: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    high = 256 if spec.kind == "frames" else 2
    drawn = torch.randint(high, (batch_size, *spec.observation_shape), generator=generator)
    return drawn.to(torch.float32 if spec.kind == "vector" else torch.uint8)


class Plain:
    """The torsos' formulas with the parameters of a torso, taken in their order."""

    def __init__(self, torso: Torso, layer_norm: bool) -> None:
        self._parameters: Iterator[Tensor] = iter(torso.parameters())
        self._layer_norm = layer_norm

    def conv(self, x: Tensor, **settings: int) -> Tensor:
        return functional.conv2d(x, next(self._parameters), next(self._parameters), **settings)

    def dense(self, x: Tensor) -> Tensor:
        return x @ next(self._parameters).T + next(self._parameters)

    def norm(self, x: Tensor) -> Tensor:
        if not self._layer_norm:
            return x
        flat = x.flatten(1)
        normalised = (flat - flat.mean(1, keepdim=True)) / (flat.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        shape = (1, -1, *[1] * (x.dim() - 2))
        return normalised.view(x.shape) * next(self._parameters).view(shape) + next(self._parameters).view(shape)

    def relu(self, x: Tensor) -> Tensor:
        return self.norm(x).clamp(min=0)

    def nature_cnn(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv(x, stride=4))
        x = self.relu(self.conv(x, stride=2))
        return self.relu(self.conv(x))

    def impala(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = functional.max_pool2d(self.conv(x, padding=1), 3, stride=2, padding=1)
            for _ in range(2):
                x = x + self.conv(self.relu(self.conv(self.relu(x), padding=1)), padding=1)
        return self.relu(x)

    def minatar_conv(self, x: Tensor) -> Tensor:
        return self.relu(self.conv(x))

    def mlp(self, x: Tensor) -> Tensor:
        return self.relu(self.dense(x.flatten(1)))


PLAIN: dict[str, Callable[[Plain, Tensor], Tensor]] = {
    "nature-cnn": Plain.nature_cnn,
    "impala": Plain.impala,
    "minatar-conv": Plain.minatar_conv,
    "mlp": Plain.mlp,
}


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize(("name", "spec"), [("nature-cnn", SMALL), ("impala", SMALL), ("minatar-conv", GRID), ("mlp", VECTOR)])
def test_torsos_are_their_formulas_in_values_and_gradients(name: str, spec: EnvSpec, layer_norm: bool) -> None:
    torso = make_torso(spec, torso=name, layer_norm=layer_norm)
    observation = observe(spec)
    planes = observation.reshape(3, -1, *spec.frame_shape[-2:]) if spec.kind != "vector" else observation
    plain = Plain(torso, layer_norm)
    latent = PLAIN[name](plain, planes.double() / (255 if spec.kind == "frames" else 1))
    features = plain.relu(plain.dense(latent.flatten(1)))

    found = torso.encode(observation)
    assert found.shape == (3, *torso.latent_shape)
    torch.testing.assert_close(found, latent)
    found = torso(observation)
    assert found.shape == (3, torso.output_size)
    torch.testing.assert_close(found, features)
    # Layers that work in place overwrite nothing that the backward pass needs.
    expected = torch.autograd.grad(features.square().sum(), list(torso.parameters()))
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), list(torso.parameters())), expected)


@pytest.mark.parametrize(
    ("torso", "spec", "shape"),
    [
        ("nature-cnn", FRAMES, (64, 7, 7)),
        ("impala", FRAMES, (32, 11, 11)),
        ("impala", GRID, (32, 2, 2)),
        ("minatar-conv", GRID, (16, 8, 8)),
    ],
)
def test_latents_have_the_published_shapes_and_scale_in_width(torso: str, spec: EnvSpec, shape: tuple[int, ...]) -> None:
    channels, *size = shape
    for scale in (1, 4, 0.25):
        made = make_torso(spec, torso=torso, width_scale=scale)
        assert made.encode(observe(spec, 1))[0].shape == made.latent_shape == (channels * scale, *size)


def test_smallest_frame_the_config_allows() -> None:
    spec = FRAMES._replace(frame_shape=(36, 36))
    assert make_torso(spec).latent_shape == (64, 1, 1)
    assert make_torso(spec)(observe(spec)).shape == (3, 32)


def test_frames_as_floats_are_scaled_like_bytes() -> None:
    torso = make_torso(FRAMES)
    torch.testing.assert_close(torso(observe(FRAMES).float()), torso(observe(FRAMES)))


def test_observations_are_not_overwritten() -> None:
    for spec in (FRAMES, VECTOR):
        observation = observe(spec).double() - 0.5
        before = observation.clone()
        make_torso(spec)(observation)
        assert torch.equal(observation, before)


def test_projection_is_the_hidden_layer_before_its_relu() -> None:
    torso = make_torso(FRAMES)
    latent = torso.encode(observe(FRAMES))
    hidden = torso.projection(latent)
    assert hidden.min() < 0
    torch.testing.assert_close(torso.project(latent), hidden.clamp(min=0))


def test_iqn_takes_the_latent_itself() -> None:
    torso = make_torso(FRAMES, algorithm="iqn")
    assert torso.output_size == 3136
    assert not list(torso.projection.parameters())
    torch.testing.assert_close(torso(observe(FRAMES)), torso.encode(observe(FRAMES)).flatten(1))


def test_self_prediction_brings_latents_between_zero_and_one() -> None:
    observation = observe(FRAMES)
    plain = make_torso(FRAMES).encode(observation)
    latent = make_torso(FRAMES, spr_weight=5).encode(observation)
    torch.testing.assert_close(latent, renormalize(plain))
    assert not torch.allclose(latent, plain)


def test_renormalize_is_linear_for_each_latent() -> None:
    latent = torch.tensor([[[[1.0, 3.0], [2.0, 5.0]]], [[[4.0, 4.0], [4.0, 4.0]]]], dtype=torch.float64)
    expected = torch.tensor([[[[0, 0.5], [0.25, 1]]], [[[0, 0], [0, 0]]]], dtype=torch.float64)
    torch.testing.assert_close(renormalize(latent), expected, atol=1e-5, rtol=0)
