"""Acme's Munchausen-DQN, which rlax and Dopamine do not have. Runs in .venv-oracles."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp

jnp.DeviceArray = jax.Array  # its name when Acme was released

from acme.agents.jax.dqn import losses  # noqa: E402

from tests.oracles.wire import Arrays  # noqa: E402


def munchausen(
    q_tm1: Any,
    a_tm1: Any,
    r_t: Any,
    discount_t: Any,
    q_tm1_target: Any,
    q_t: Any,
    alpha: Any,
    temperature: Any,
    clip: Any,
    kappa: Any,
) -> Any:
    """M-DQN's Huber loss, float[B]. Acme rounds r_t and discount_t to float32, so give it float32 values."""
    loss = losses.MunchausenQLearning(
        entropy_temperature=temperature,
        munchausen_coefficient=alpha,
        clip_value_min=clip,
        discount=1.0,
        max_abs_reward=jnp.inf,
        huber_loss_parameter=kappa,
    )
    network = SimpleNamespace(apply=lambda values, time: values[time])  # its parameters are the values at tm1 and at t

    def of_one(q_tm1: Any, a_tm1: Any, r_t: Any, discount_t: Any, q_tm1_target: Any, q_t: Any) -> Any:
        data = SimpleNamespace(
            observation="tm1", action=a_tm1[None], reward=r_t[None], discount=discount_t[None], next_observation="t"
        )
        target = {"tm1": q_tm1_target[None], "t": q_t[None]}
        return loss(network, {"tm1": q_tm1[None]}, target, SimpleNamespace(data=data), key=None)[0]

    return jax.vmap(of_one)(q_tm1, a_tm1, r_t, discount_t, q_tm1_target, q_t)


def loss_and_gradient(prediction: Any, **inputs: Any) -> Arrays:
    """The loss of each sample, float[B], and the gradient of its own loss in each sample's values, float[B, A]."""
    values, pull_back = jax.vjp(lambda prediction: munchausen(prediction, **inputs), jnp.asarray(prediction))
    return {"loss": values, "gradient": pull_back(jnp.ones_like(values))[0]}
