"""Torsos: an encoder and a dense hidden layer, from [B, stack, *frame_shape] to float[B, output_size]."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sbrl import config
from sbrl.envs.spec import EnvSpec
from sbrl.networks.checks import torso_name
from sbrl.networks.encoders import ENCODERS
from sbrl.networks.layers import dense, norm


class Torso(nn.Module):
    """An encoder to a latent, and a dense hidden layer on the flat latent."""

    def __init__(self, agent: config.Agent, spec: EnvSpec, has_hidden_layer: bool = True) -> None:
        """
        Args:
            has_hidden_layer: False leaves the hidden layer to the head; the features are then the flat latent.

        Raises:
            UsageError: agent.torso cannot take the observations of `spec`.
        """
        super().__init__()
        self.encoder = ENCODERS[torso_name(agent, spec)](agent, spec)
        self.latent_shape = self.encoder.latent_shape  # [C, H, W] for images, [H] otherwise; without the batch
        self.output_size = math.prod(self.latent_shape)
        # The hidden layer without its ReLU: float[B, *latent_shape] -> float[B, output_size]. Self-prediction compares these.
        self.projection = nn.Sequential(nn.Flatten())
        self.activation: nn.Module = nn.Identity()
        if has_hidden_layer:
            flat, self.output_size = self.output_size, agent.hidden_size
            self.projection.extend([dense(agent, flat, agent.hidden_size), *norm(agent, agent.hidden_size)])
            self.activation = nn.ReLU(inplace=True)
        self._scale = input_scale(spec)
        self._renormalizes = agent.predicts_itself

    def encode(self, observation: Tensor) -> Tensor:
        """Scales the input and applies the encoder. With self-prediction, scales latents to [0, 1] (see `renormalize`).

        Args:
            observation: [B, stack, *frame_shape] of any dtype; frames are not scaled yet, 0 to 255.

        Returns:
            float[B, *latent_shape].
        """
        dtype = next(self.encoder.parameters()).dtype
        inputs = observation.reshape(-1, *self.encoder.input_shape).to(dtype)
        if self._scale != 1.0:
            inputs = inputs * self._scale
        if inputs.dim() == 4:  # the layout of the convolutions' weights: convert once here, not back and forth in each pass
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        latent: Tensor = self.encoder(inputs)
        return renormalize(latent) if self._renormalizes else latent

    def project(self, latent: Tensor) -> Tensor:
        """float[B, *latent_shape] -> float[B, output_size]: flattens, then applies the hidden layer and its ReLU."""
        features: Tensor = self.activation(self.projection(latent))
        return features

    def forward(self, observation: Tensor) -> Tensor:
        """[B, stack, *frame_shape] -> float[B, output_size]."""
        return self.project(self.encode(observation))


def renormalize(latent: Tensor) -> Tensor:
    """Scales each latent float[B, ...] linearly to [0, 1]. SPR and BBF do this with all latents, predicted ones, too."""
    axes = tuple(range(1, latent.dim()))
    low, high = latent.amin(dim=axes, keepdim=True), latent.amax(dim=axes, keepdim=True)
    return (latent - low) / (high - low + 1e-5)


def input_scale(spec: EnvSpec) -> float:
    """1/255 for frames, so that inputs are in [0, 1]; 1 for vectors, and for grids, which only hold 0 and 1."""
    return 1 / 255 if spec.kind == "frames" else 1.0
