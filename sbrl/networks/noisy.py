"""A dense layer that explores by noise on its weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class NoisyLinear(nn.Module):
    """A linear layer with factorised Gaussian noise on weight and bias (Fortunato et al. 2018, equations 9 to 11).

        y = (weight + weight_sigma * f(e_out) f(e_in)^T) x + bias + bias_sigma * f(e_out),   f(e) = sign(e) sqrt(|e|)

    with standard normal e_in and e_out, which all rows of a batch share and which stay the same until `resample`. In evaluation
    mode there is no noise. The noisy weight is never formed: f(e_out) * (weight_sigma (f(e_in) * x)) gives the same result with
    a second matrix product.
    """

    weight: nn.Parameter
    bias: nn.Parameter
    weight_sigma: nn.Parameter
    bias_sigma: nn.Parameter
    noise_in: Tensor  # float[num_inputs]: f(e_in)
    noise_out: Tensor  # float[num_outputs]: f(e_out)

    def __init__(self, num_inputs: int, num_outputs: int, sigma: float) -> None:
        """
        Args:
            sigma: sigma_0, the initial noise's scale before the division by sqrt(num_inputs).
        """
        super().__init__()
        self._sigma = sigma
        self.weight, self.weight_sigma = (nn.Parameter(torch.empty(num_outputs, num_inputs)) for _ in range(2))
        self.bias, self.bias_sigma = (nn.Parameter(torch.empty(num_outputs)) for _ in range(2))
        # Not part of the weights: each process draws its own noise, and so do the online and the target network.
        self.register_buffer("noise_in", torch.empty(num_inputs), persistent=False)
        self.register_buffer("noise_out", torch.empty(num_outputs), persistent=False)

    def initialise(self, generator: torch.Generator) -> None:
        """As in their section 3.2: means uniform in +-1 / sqrt(num_inputs), sigmas sigma_0 / sqrt(num_inputs).

        Also draws the first noise.
        """
        bound = 1 / math.sqrt(self.weight.shape[1])
        for mean in (self.weight, self.bias):
            nn.init.uniform_(mean, -bound, bound, generator=generator)
        for sigma in (self.weight_sigma, self.bias_sigma):
            nn.init.constant_(sigma, self._sigma * bound)
        self.noise_in, self.noise_out = (
            scale_noise(torch.empty_like(noise).normal_(generator=generator)) for noise in (self.noise_in, self.noise_out)
        )

    def resample(self) -> None:
        """Draws new noise from torch's global generator into the same buffers: a captured graph reads these addresses.

        Do not call it between a forward and its backward pass: autograd refuses that.
        """
        for noise in (self.noise_in, self.noise_out):
            noise.copy_(scale_noise(torch.randn_like(noise)))

    def forward(self, inputs: Tensor) -> Tensor:
        """float[..., num_inputs] -> float[..., num_outputs]."""
        mean = functional.linear(inputs, self.weight, self.bias)
        if not self.training:
            return mean
        return mean + self.noise_out * functional.linear(inputs * self.noise_in, self.weight_sigma, self.bias_sigma)


def scale_noise(noise: Tensor) -> Tensor:
    """f(e) = sign(e) sqrt(|e|)."""
    return noise.sign() * noise.abs().sqrt()
