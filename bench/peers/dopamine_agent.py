"""The update of Dopamine's JAX QR-DQN, compiled by XLA, on batches in memory. Runs in .venv-peers.

Dopamine's network pads its convolutions, which makes its dense layer 2.5 times as large. Here they are unpadded, as in the
other libraries.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from tests.oracles import absent

absent.install()
from dopamine.jax.agents.quantile import quantile_agent  # noqa: E402

NUM_ACTIONS, NUM_QUANTILES, NUM_BATCHES = 6, 200, 8


class Output(NamedTuple):
    """The network's outputs under the names that Dopamine reads."""

    logits: Any
    q_values: Any


class Network(nn.Module):
    """Dopamine's QuantileNetwork, unpadded."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = x.astype(jnp.float32) / 255.0
        for features, size, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
            x = nn.relu(nn.Conv(features, (size, size), (stride, stride), padding="VALID")(x))
        x = nn.relu(nn.Dense(512)(x.reshape(-1)))
        logits = nn.Dense(NUM_ACTIONS * NUM_QUANTILES)(x).reshape(NUM_ACTIONS, NUM_QUANTILES)
        return Output(logits, logits.mean(axis=1))


def dopamine_updates(batch_size: int, learning_rate: float, adam_epsilon: float, threads: int) -> Callable[[int], None]:
    """Args: threads: set by the environment (see `bench.peers.client`)."""
    network, optimizer = Network(), optax.adam(learning_rate, eps=adam_epsilon)
    weights: Any = network.init(jax.random.PRNGKey(0), jnp.zeros((84, 84, 4), jnp.uint8))
    state = SimpleNamespace(online=weights, target=weights, optimizer=optimizer.init(weights))
    generator = np.random.default_rng(0)
    batches = [generator.integers(256, size=(2, batch_size, 84, 84, 4), dtype=np.uint8) for _ in range(NUM_BATCHES)]
    actions, rewards = np.ones(batch_size, np.int32), np.ones(batch_size, np.float32)
    terminals = np.zeros(batch_size, np.float32)

    def work(updates: int) -> None:
        for k in range(updates):
            states, next_states = batches[k % NUM_BATCHES]
            state.optimizer, state.online, loss, mean_loss = quantile_agent.train(
                *(network, state.online, state.target, optimizer, state.optimizer),
                *(states, actions, next_states, rewards, terminals, 1.0, NUM_QUANTILES, 0.99),
            )
        jax.block_until_ready((state.online, loss, mean_loss))

    return work
