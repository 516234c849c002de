"""SBRL's networks in float64, and their weights in the form for `reference_network`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from learner.records import Batch
from sbrl import config
from sbrl.envs.spec import EnvSpec
from sbrl.networks.build import build_network
from sbrl.networks.heads.implicit_quantile import ImplicitQuantileHead
from sbrl.networks.network import ValueNetwork
from tests.oracles.inputs import NUM_ACTIONS, draw_transition

SPEC = EnvSpec(
    num_actions=NUM_ACTIONS, frame_shape=(6,), frame_dtype=np.dtype(np.float32), stack=1, kind="vector", clip_rewards=False
)


def make_network(agent: config.Agent, seed: int) -> ValueNetwork:
    """A network in float64 with nonzero biases and with drawn noise in noisy layers."""
    network = build_network(agent, SPEC, seed).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, std=0.1, generator=generator)
    network.resample_noise()
    return network


def weights(network: nn.Module, prefix: str) -> dict[str, Any]:
    """Parameters and noise as <prefix>/<name>."""
    named = (*network.named_parameters(), *network.named_buffers())
    return {f"{prefix}/{name}": tensor.detach().numpy().copy() for name, tensor in named}


def draw_batch(seed: int, size: int = 16) -> Batch:
    """Transitions between random observations, with different probabilities."""
    generator = np.random.default_rng(seed)
    observations = torch.from_numpy(generator.normal(size=(2, size, *SPEC.observation_shape)))
    transition = draw_transition(generator, size)
    return Batch(
        s_tm1=observations[0],
        a_tm1=transition.a_tm1,
        r_t=transition.r_t.clamp(-10, 10),
        discount_t=transition.discount_t,
        s_t=observations[1],
        probability=torch.from_numpy(generator.uniform(0.05, 1.0, size=size)),
    )


def set_fractions(monkeypatch: pytest.MonkeyPatch, fractions: dict[int, Tensor]) -> None:
    """Lets IQN heads draw the given fractions, by the number that is asked for."""

    def sample_tau(_head: ImplicitQuantileHead, batch_size: int, num: int) -> Tensor:
        assert len(fractions[num]) == batch_size
        return fractions[num]

    monkeypatch.setattr(ImplicitQuantileHead, "sample_tau", sample_tau)
