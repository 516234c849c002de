"""Encoders: the first layers of a torso (Nature CNN, IMPALA, MinAtar conv, MLP), from observations to a latent.

Convolutions see the stack as channels.

With agent.layer_norm, layer normalisation comes before each ReLU. The constructors leave the parameters alone;
`sbrl.networks.build` initialises them. ReLUs work in place if no other layer needs the tensor that they overwrite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from sbrl import config
from sbrl.envs.spec import EnvSpec
from sbrl.networks.checks import image_shape
from sbrl.networks.layers import image_norm, norm


class Encoder(nn.Sequential):
    """Base of the encoders: maps float[B, *input_shape] to float[B, *latent_shape]."""

    def __init__(self, *layers: nn.Module, input_shape: tuple[int, ...], latent_shape: tuple[int, ...]) -> None:
        super().__init__(*layers)
        self.input_shape = input_shape
        self.latent_shape = latent_shape


class NatureCnn(Encoder):
    """Mnih et al. 2015: conv 32 8x8/4, 64 4x4/2, 64 3x3/1.

    No padding, as published. Dopamine pads, which makes the dense layer 2.5 times as large.
    """

    def __init__(self, agent: config.Agent, spec: EnvSpec) -> None:
        shape = channels, height, width = image_shape("nature-cnn", spec)
        first, second, third = (_scale(agent, size) for size in (32, 64, 64))
        super().__init__(
            *(nn.Conv2d(channels, first, 8, stride=4), *image_norm(agent, first), nn.ReLU(inplace=True)),
            *(nn.Conv2d(first, second, 4, stride=2), *image_norm(agent, second), nn.ReLU(inplace=True)),
            *(nn.Conv2d(second, third, 3), *image_norm(agent, third), nn.ReLU(inplace=True)),
            input_shape=shape,
            latent_shape=(third, self._size(height), self._size(width)),
        )

    @staticmethod
    def _size(size: int) -> int:
        """Height or width left after the three convolutions."""
        return (((size - 8) // 4 + 1) - 4) // 2 + 1 - 2


class ImpalaCnn(Encoder):
    """The residual network of IMPALA (Espeholt et al. 2018); agent.width_scale sets its width (BBF: 4).

    Three stages of 16, 32 and 32 channels: conv 3x3, max-pool 3x3/2, two residual blocks; a ReLU at the end.
    """

    def __init__(self, agent: config.Agent, spec: EnvSpec) -> None:
        shape = channels, height, width = image_shape("impala", spec)
        layers: list[nn.Module] = []
        for size in (16, 32, 32):
            inputs, channels = channels, _scale(agent, size)
            # Padded by one on both sides. TensorFlow's SAME pads even sizes on one side only; the output sizes are the same.
            layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.MaxPool2d(3, stride=2, padding=1)]
            layers += [ResidualBlock(agent, channels) for _ in range(2)]
            height, width = (height + 1) // 2, (width + 1) // 2
        layers += [*image_norm(agent, channels), nn.ReLU(inplace=True)]
        super().__init__(*layers, input_shape=shape, latent_shape=(channels, height, width))


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), all 3x3."""

    def __init__(self, agent: config.Agent, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            # In place, the first ReLU would overwrite x unless a norm comes before it.
            *(*image_norm(agent, channels), nn.ReLU(inplace=agent.layer_norm), nn.Conv2d(channels, channels, 3, padding=1)),
            *(*image_norm(agent, channels), nn.ReLU(inplace=True), nn.Conv2d(channels, channels, 3, padding=1)),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """float[B, C, H, W] -> the same shape."""
        return inputs + self.layers(inputs)  # type: ignore[no-any-return]


class MinAtarConv(Encoder):
    """Young and Tian 2019: conv 16 3x3/1."""

    def __init__(self, agent: config.Agent, spec: EnvSpec) -> None:
        shape = channels, height, width = image_shape("minatar-conv", spec)
        size = _scale(agent, 16)
        super().__init__(
            *(nn.Conv2d(channels, size, 3), *image_norm(agent, size), nn.ReLU(inplace=True)),
            input_shape=shape,
            latent_shape=(size, height - 2, width - 2),
        )


class Mlp(Encoder):
    """The first of two hidden layers, on the flattened observation."""

    def __init__(self, agent: config.Agent, spec: EnvSpec) -> None:
        flat, hidden = math.prod(spec.observation_shape), agent.hidden_size
        super().__init__(
            *(nn.Linear(flat, hidden), *norm(agent, hidden), nn.ReLU(inplace=True)),
            input_shape=(flat,),
            latent_shape=(hidden,),
        )


ENCODERS: Mapping[str, Callable[[config.Agent, EnvSpec], Encoder]] = {
    "nature-cnn": NatureCnn,
    "impala": ImpalaCnn,
    "minatar-conv": MinAtarConv,
    "mlp": Mlp,
}


def _scale(agent: config.Agent, channels: int) -> int:
    return max(1, round(channels * agent.width_scale))
