"""Feature networks: an observation [B, stack, *frame_shape] becomes float32[B, output_size].

Parameters are left as the layers make them; `sbrl.networks.build` initialises them. Convolutions see the stack as channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sbrl.envs.spec import EnvSpec
from sbrl.errors import UsageError


class Torso(nn.Module):
    """Base of the torsos: scales an observation to float32, then applies `layers`."""

    def __init__(self, layers: nn.Sequential, output_size: int, input_shape: tuple[int, ...], scale: float) -> None:
        """
        Args:
            layers: Maps float32[B, *input_shape] to float32[B, output_size].
            output_size: Features per observation.
            input_shape: What one observation is reshaped to.
            scale: Factor on every input; 1 leaves the observation as it is.
        """
        super().__init__()
        self.layers = layers
        self.output_size = output_size
        self._input_shape = input_shape
        self._scale = scale

    def forward(self, observation: Tensor) -> Tensor:
        """[B, stack, *frame_shape] of the spec's dtype -> float32[B, output_size]."""
        inputs = observation.reshape(-1, *self._input_shape).float()
        if self._scale != 1.0:
            inputs = inputs * self._scale
        if inputs.dim() == 4:  # as the convolutions' weights: converted once here rather than in each pass, back and forth
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        features: Tensor = self.layers(inputs)
        return features


class NatureCnn(Torso):
    """Mnih et al. 2015: conv 32 8x8/4, 64 4x4/2, 64 3x3/1, dense.

    No padding, as published; Dopamine pads, which makes the dense layer 2.5 times as large.
    """

    def __init__(self, spec: EnvSpec, hidden_size: int) -> None:
        channels, height, width = _image_shape(spec, "nature-cnn", least=36)
        flat = 64 * _after_convs(height) * _after_convs(width)
        layers = nn.Sequential(
            *(nn.Conv2d(channels, 32, 8, stride=4), nn.ReLU(inplace=True)),
            *(nn.Conv2d(32, 64, 4, stride=2), nn.ReLU(inplace=True)),
            *(nn.Conv2d(64, 64, 3), nn.ReLU(inplace=True)),
            *(nn.Flatten(), nn.Linear(flat, hidden_size), nn.ReLU(inplace=True)),
        )
        super().__init__(layers, hidden_size, (channels, height, width), input_scale(spec))


class MinAtarConv(Torso):
    """Young and Tian 2019: conv 16 3x3/1 and a dense layer."""

    def __init__(self, spec: EnvSpec, hidden_size: int) -> None:
        channels, height, width = _image_shape(spec, "minatar-conv", least=3)
        layers = nn.Sequential(
            *(nn.Conv2d(channels, 16, 3), nn.ReLU(inplace=True)),
            *(nn.Flatten(), nn.Linear(16 * (height - 2) * (width - 2), hidden_size), nn.ReLU(inplace=True)),
        )
        super().__init__(layers, hidden_size, (channels, height, width), input_scale(spec))


class Mlp(Torso):
    """Two hidden layers on the flattened observation."""

    def __init__(self, spec: EnvSpec, hidden_size: int) -> None:
        flat = 1
        for size in spec.observation_shape:
            flat *= size
        layers = nn.Sequential(
            *(nn.Linear(flat, hidden_size), nn.ReLU(inplace=True)),
            *(nn.Linear(hidden_size, hidden_size), nn.ReLU(inplace=True)),
        )
        super().__init__(layers, hidden_size, (flat,), input_scale(spec))


def input_scale(spec: EnvSpec) -> float:
    """1/255 for frames, so that inputs lie in [0, 1]; 1 for grids, which hold 0 and 1 already, and for vectors."""
    return 1 / 255 if spec.kind == "frames" else 1.0


def _image_shape(spec: EnvSpec, torso: str, least: int) -> tuple[int, int, int]:
    """Channels (with the stack), height and width; `least` is the smallest height and width the torso can take.

    Raises:
        UsageError: the observation is no image, or is too small.
    """
    if len(spec.frame_shape) not in (2, 3):
        raise UsageError(
            f"agent.torso={torso} needs an image, but the observation has shape {spec.frame_shape}; set agent.torso=mlp or auto"
        )
    *planes, height, width = spec.frame_shape
    if min(height, width) < least:
        raise UsageError(
            f"agent.torso={torso} needs an image of {least}x{least} or more, but it is {height}x{width}; set agent.torso=auto"
        )
    return spec.stack * (planes[0] if planes else 1), height, width


def _after_convs(size: int) -> int:
    """Height or width left after the Nature CNN's three convolutions."""
    return (((size - 8) // 4 + 1) - 4) // 2 + 1 - 2
