"""SBRL's MLP networks in JAX, from their equations, with the losses of rlax and Acme. Runs in .venv-oracles.

Weights have their names from the network's state_dict. F: features, A: actions.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from tests.oracles import reference_acme, reference_rlax
from tests.oracles.wire import Arrays

Weights = dict[str, Any]


def linear(weights: Weights, name: str, inputs: Any) -> Any:
    """A dense layer. A noisy layer's weights include its noise (Fortunato et al. 2018, equation 9)."""
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    if f"{name}.weight_sigma" in weights:
        noise_out, noise_in = weights[f"{name}.noise_out"], weights[f"{name}.noise_in"]
        weight = weight + weights[f"{name}.weight_sigma"] * jnp.outer(noise_out, noise_in)
        bias = bias + weights[f"{name}.bias_sigma"] * noise_out
    return inputs @ weight.T + bias


def output(weights: Weights, features: Any, num_actions: int) -> Any:
    """float[..., F] -> float[..., A, size]."""
    if "head.output.layer.weight" in weights:
        flat = linear(weights, "head.output.layer", features)
        return flat.reshape(*flat.shape[:-1], num_actions, -1)
    value = linear(weights, "head.output.value.layer", features)[..., None, :]
    flat = linear(weights, "head.output.advantage.layer", features)
    advantage = flat.reshape(*flat.shape[:-1], num_actions, -1)
    return value + advantage - advantage.mean(axis=-2, keepdims=True)


def forward(weights: Weights, observation: Any, num_actions: int, tau: Any = None) -> Any:
    """float[B, ...] -> float[B, A, size]; with fractions `tau` float[B, N], IQN's quantiles float[B, A, N]."""
    latent = jax.nn.relu(linear(weights, "torso.encoder.0", observation.reshape(len(observation), -1)))
    if tau is None:
        return output(weights, jax.nn.relu(linear(weights, "torso.projection.1", latent)), num_actions)
    num_cosines = weights["head.embedding.weight"].shape[1]
    cosines = jnp.cos(jnp.pi * jnp.arange(1, num_cosines + 1) * tau[..., None])
    embedded = latent[:, None, :] * jax.nn.relu(linear(weights, "head.embedding", cosines))
    hidden = jax.nn.relu(linear(weights, "head.hidden.0", embedded))
    return jnp.swapaxes(output(weights, hidden, num_actions)[..., 0], 1, 2)


def loss_and_gradients(
    algorithm: Any,
    double: Any,
    num_actions: Any,
    importance: Any,
    s_tm1: Any,
    a_tm1: Any,
    r_t: Any,
    discount_t: Any,
    s_t: Any,
    **more: Any,
) -> Arrays:
    """The loss of each sample, float[B], and the gradient of mean(importance * loss) in each of the online network's weights.

    Args:
        algorithm: dqn, m-dqn, c51, qr-dqn or iqn.
        importance: float[B].
        more: The weights as online/<name> and target/<name>, and the loss's own settings.
    """
    algorithm, num_actions = str(algorithm), int(num_actions)
    online, target = (
        {name.removeprefix(prefix): jnp.asarray(array) for name, array in more.items() if name.startswith(prefix)}
        for prefix in ("online/", "target/")
    )
    settings = {name: array for name, array in more.items() if "/" not in name}
    tau_prime, tau_policy = (settings.pop(name, None) for name in ("tau_prime", "tau_policy"))
    tau = settings["tau"] if algorithm == "iqn" else None
    transition = {"a_tm1": a_tm1, "r_t": r_t, "discount_t": discount_t}

    def losses(online: Weights) -> Any:
        prediction = forward(online, s_tm1, num_actions, tau)
        output_t = forward(target, s_t, num_actions, tau_prime)
        if algorithm == "m-dqn":
            q_tm1_target = forward(target, s_tm1, num_actions)[..., 0]
            return reference_acme.munchausen(
                prediction[..., 0], **transition, q_t=output_t[..., 0], q_tm1_target=q_tm1_target, **settings
            )
        chosen_by = forward(online if double else target, s_t, num_actions, tau_policy)
        if algorithm == "dqn":
            selector = {"q_t_selector": chosen_by[..., 0]} if double else {}
            return reference_rlax.td(prediction[..., 0], **transition, q_t=output_t[..., 0], **selector, **settings)
        if algorithm == "c51":
            selector = {"q_t_selector": jax.nn.softmax(chosen_by) @ settings["atoms"]} if double else {}
            return reference_rlax.categorical(prediction, **transition, logits_t=output_t, **selector, **settings)
        selector = {"q_t_selector": chosen_by.mean(axis=-1)}
        value = reference_rlax.quantile(prediction, **transition, quantiles_t=output_t, **selector, **settings)
        return value / settings["kappa"] if algorithm == "iqn" else value

    values, pull_back = jax.vjp(losses, online)
    (gradients,) = pull_back(importance / len(importance))
    return {"loss": values, **{f"gradient/{name}": gradient for name, gradient in gradients.items()}}
