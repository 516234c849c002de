"""IQN's head (Dabney et al. 2018): the return's quantile at any given fraction."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from sbrl import config
from sbrl.networks.heads.base import Head
from sbrl.networks.layers import dense, norm
from sbrl.networks.output_layers import make_output


class ImplicitQuantileHead(Head):
    """Z_tau = f(psi * phi(tau)): the torso's flat latent psi times an embedding of tau, then hidden layer, output.

    phi(tau) = relu(linear(cos(pi i tau))), i = 1 .. tau_embedding_size as in Dopamine. The paper counts from 0, but there the
    cosine is constant and does the same as the layer's bias. As in Dopamine the product comes before the dense hidden layer, so
    that layer is in this head.
    """

    has_hidden_layer = True

    def __init__(self, agent: config.Agent, num_features: int, num_actions: int) -> None:
        super().__init__(agent, num_features, num_actions)
        self._num_policy_samples = agent.num_policy_samples
        self.embedding = nn.Linear(agent.tau_embedding_size, num_features)
        self.hidden = nn.Sequential(dense(agent, num_features, agent.hidden_size), *norm(agent, agent.hidden_size), nn.ReLU())
        self.output = make_output(agent, agent.hidden_size, num_actions, 1)

    def forward(self, features: Tensor) -> Tensor:
        """float[B, F] -> quantiles at num_policy_samples fractions drawn for each row, float[B, A, num_policy_samples]."""
        return self.quantiles(features, self.sample_tau(len(features), self._num_policy_samples))

    def quantiles(self, features: Tensor, tau: Tensor) -> Tensor:
        """The return's quantiles at the fractions `tau`.

        Args:
            features: float[B, F], the torso's.
            tau: float[B, N] in [0, 1].

        Returns:
            float[B, A, N].
        """
        hidden = self.hidden(features[:, None] * self.embed(tau))
        quantiles: Tensor = self.output(hidden).squeeze(-1).transpose(1, 2)
        return quantiles

    def embed(self, tau: Tensor) -> Tensor:
        """phi: fractions float[B, N] -> float[B, N, F]."""
        frequencies = math.pi * torch.arange(1, self.embedding.in_features + 1, dtype=tau.dtype, device=tau.device)
        return functional.relu(self.embedding(torch.cos(tau[..., None] * frequencies)))

    def sample_tau(self, batch_size: int, num: int) -> Tensor:
        """Fractions float[batch_size, num], uniform in [0, 1), from torch's global generator of the head's device."""
        return torch.rand(batch_size, num, dtype=self.embedding.weight.dtype, device=self.embedding.weight.device)

    def q_values(self, features: Tensor) -> Tensor:
        """Means over the quantiles at newly drawn fractions, float[B, F] -> float[B, A]."""
        return self(features).mean(dim=-1)  # type: ignore[no-any-return]
