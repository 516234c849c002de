"""rlax's losses and gradients, vectorised over a batch. Runs in .venv-oracles. B: batch size, A: actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import rlax

from tests.oracles.wire import Arrays


def td(q_tm1: Any, a_tm1: Any, r_t: Any, discount_t: Any, q_t: Any, q_t_selector: Any = None, kappa: Any = None) -> Any:
    """The squared TD error, or with `kappa` the Huber loss, float[B]; with `q_t_selector` the double one."""
    if q_t_selector is None:
        errors = jax.vmap(rlax.q_learning)(q_tm1, a_tm1, r_t, discount_t, q_t)
    else:
        errors = jax.vmap(rlax.double_q_learning)(q_tm1, a_tm1, r_t, discount_t, q_t, q_t_selector)
    # rlax has the squared error with a half.
    return 2 * rlax.l2_loss(errors) if kappa is None else rlax.huber_loss(errors, kappa)


def categorical(
    logits_tm1: Any, a_tm1: Any, r_t: Any, discount_t: Any, logits_t: Any, atoms: Any, q_t_selector: Any = None
) -> Any:
    """C51's cross-entropy, float[B], from logits float[B, A, K] on the same atoms float[K]."""
    if q_t_selector is None:
        loss = jax.vmap(rlax.categorical_q_learning, in_axes=(None, 0, 0, 0, 0, None, 0))
        return loss(atoms, logits_tm1, a_tm1, r_t, discount_t, atoms, logits_t)
    loss = jax.vmap(rlax.categorical_double_q_learning, in_axes=(None, 0, 0, 0, 0, None, 0, 0))
    return loss(atoms, logits_tm1, a_tm1, r_t, discount_t, atoms, logits_t, q_t_selector)


def quantile(
    quantiles_tm1: Any,
    a_tm1: Any,
    r_t: Any,
    discount_t: Any,
    quantiles_t: Any,
    tau: Any,
    kappa: Any,
    q_t_selector: Any = None,
) -> Any:
    """The quantile Huber loss, float[B], from quantiles float[B, A, N] at fractions tau float[B, N].

    Args:
        q_t_selector: float[B, A], values that choose the target's action; without, the means of quantiles_t do.
    """
    selector = quantiles_t if q_t_selector is None else q_t_selector[..., None]
    last = [jnp.swapaxes(quantiles, 1, 2) for quantiles in (quantiles_tm1, selector, quantiles_t)]  # rlax has actions last
    loss = jax.vmap(rlax.quantile_q_learning, in_axes=(0, 0, 0, 0, 0, 0, 0, None))
    return loss(last[0], tau, a_tm1, r_t, discount_t, last[1], last[2], float(kappa))


LOSSES: dict[str, Callable[..., Any]] = {"td": td, "categorical": categorical, "quantile": quantile}


def loss_and_gradient(loss: Any, prediction: Any, **inputs: Any) -> Arrays:
    """The loss called `loss` of each sample, float[B], and the gradient of its own loss in each sample's prediction."""
    losses, pull_back = jax.vjp(lambda prediction: LOSSES[str(loss)](prediction, **inputs), jnp.asarray(prediction))
    return {"loss": losses, "gradient": pull_back(jnp.ones_like(losses))[0]}


def project(r_t: Any, discount_t: Any, probabilities_t: Any, atoms: Any) -> Arrays:
    """C51's projection on the atoms."""
    supports = r_t[:, None] + discount_t[:, None] * atoms
    return {"projection": jax.vmap(rlax.categorical_l2_project, in_axes=(0, 0, None))(supports, probabilities_t, atoms)}


def n_step_returns(r_t: Any, discount_t: Any, v_t: Any, n: Any) -> Arrays:
    """Bootstrapped returns of one sequence, float[T]; near its end they sum fewer than n rewards."""
    return {"returns": rlax.n_step_bootstrapped_returns(jnp.asarray(r_t), jnp.asarray(discount_t), jnp.asarray(v_t), int(n))}
