"""The learning part of Dopamine's JAX agents: their code from a sampled batch to new weights and priorities.

Runs in .venv-oracles. The rest (environments, replay, logging) is replaced. The networks are SBRL's MLPs from
`reference_network`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from dopamine.jax.agents.dqn import dqn_agent
from dopamine.jax.agents.full_rainbow import full_rainbow_agent
from dopamine.jax.agents.implicit_quantile import implicit_quantile_agent
from dopamine.jax.agents.quantile import quantile_agent
from dopamine.jax.agents.rainbow import rainbow_agent

from tests.oracles.reference_network import forward
from tests.oracles.wire import Arrays

AGENTS: Mapping[str, Any] = {
    "dqn": dqn_agent.JaxDQNAgent,
    "quantile": quantile_agent.JaxQuantileAgent,
    "rainbow": rainbow_agent.JaxRainbowAgent,
    "full-rainbow": full_rainbow_agent.JaxFullRainbowAgent,
}


def project(r_t: Any, discount_t: Any, probabilities_t: Any, atoms: Any) -> Arrays:
    """C51's projection on the atoms."""
    supports = r_t[:, None] + discount_t[:, None] * atoms
    projection = jax.vmap(rainbow_agent.project_distribution, in_axes=(0, 0, None))
    return {"projection": projection(supports, probabilities_t, jnp.asarray(atoms))}


class Output(NamedTuple):
    """The outputs of a Dopamine network under the names that its agents read."""

    q_values: Any = None
    logits: Any = None
    probabilities: Any = None


class ImplicitQuantileOutput(NamedTuple):
    quantile_values: Any
    quantiles: Any


class Network:
    """A Dopamine network, which takes one observation. `kind` is the kind of its output."""

    def __init__(self, kind: str, num_actions: int) -> None:
        self._kind, self._num_actions = kind, num_actions

    def apply(self, weights: Any, observation: Any, support: Any = None, key: Any = None) -> Output:
        values = forward(weights, observation[None], self._num_actions)[0]
        if self._kind == "quantile":
            return Output(q_values=values.mean(axis=-1), logits=values)
        if support is None:
            return Output(q_values=values[..., 0])
        probabilities = jax.nn.softmax(values)
        return Output(q_values=probabilities @ support, logits=values, probabilities=probabilities)


def train(agent: Any, num_actions: Any, learning_rate: Any, adam_epsilon: Any, **arrays: Any) -> Arrays:
    """Makes a few updates of Dopamine's agent `agent`.

    Args:
        arrays: The settings of its training; batch/<i>/<element>, with the names of Dopamine's replay; weights/<name>.

    Returns:
        weights/<name> after the last update, and priorities/<i> for agents that have them.
    """
    kind = AGENTS[str(agent)]
    weights = _take(arrays, "weights/")
    optimizer = optax.adam(float(learning_rate), eps=float(adam_epsilon))
    updated: list[Any] = []  # the priorities of each update
    learner = SimpleNamespace(
        network_def=Network(str(agent), int(num_actions)),
        online_params=weights,
        target_network_params=weights,
        optimizer=optimizer,
        optimizer_state=optimizer.init(weights),
        cumulative_gamma=float(arrays["cumulative_gamma"]),
        target_update_period=int(arrays["target_update_period"]),
        training_steps=1,  # targets are copied after updates whose number is a multiple of the period
        update_period=1,
        min_replay_history=0,
        preprocess_fn=lambda states: states,
        summary_writer=None,
        _replay=SimpleNamespace(add_count=1, update=lambda _, priorities: updated.append(priorities)),
        _sample_from_replay_buffer=lambda: None,
        _replay_scheme="prioritized",
        _loss_type="mse",
        _kappa=float(arrays.get("kappa", 1.0)),
        _num_atoms=int(arrays.get("num_quantiles", 0)),
        _support=jnp.asarray(arrays.get("atoms", 0.0)),
        _double_dqn=True,
        _distributional=True,
        _mse_loss=False,
        _num_updates_per_train_step=1,
        _rng=jax.random.PRNGKey(0),
    )
    learner._sync_weights = lambda: kind._sync_weights(learner)
    learner._training_step_update = lambda: kind._training_step_update(learner)
    for index in range(int(arrays["num_batches"])):
        learner.replay_elements = {"indices": None, **_take(arrays, f"batch/{index}/")}
        kind._train_step(learner)
    return {
        **{f"weights/{name}": array for name, array in learner.online_params.items()},
        **{f"priorities/{index}": array for index, array in enumerate(updated)},
    }


def _take(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): jnp.asarray(array) for name, array in arrays.items() if name.startswith(prefix)}


class ImplicitQuantileNetwork:
    """IQN for one observation. Dopamine draws fractions inside the network; these are the end of the observation instead."""

    def __init__(self, num_actions: int, spans: Mapping[int, slice]) -> None:
        """
        Args:
            spans: Positions of the fractions in an observation, by the number that is asked for.
        """
        self._num_actions, self._spans = num_actions, spans
        self._num_features = min(span.start for span in spans.values())

    def apply(self, weights: Any, observation: Any, num_quantiles: int, rng: Any) -> Any:
        seen, tau = observation[: self._num_features], observation[self._spans[num_quantiles]]
        quantiles = forward(weights, seen[None], self._num_actions, tau[None])[0]
        return ImplicitQuantileOutput(quantile_values=quantiles.T, quantiles=tau[:, None])


def implicit_quantile(
    s_tm1: Any,
    a_tm1: Any,
    r_t: Any,
    s_t: Any,
    terminal: Any,
    cumulative_gamma: Any,
    tau: Any,
    tau_prime: Any,
    tau_policy: Any,
    double: Any,
    kappa: Any,
    num_actions: Any,
    **weights: Any,
) -> Arrays:
    """IQN's mean loss and its gradients gradient/<name>, from weights online/<name> and target/<name>.

    Args:
        tau, tau_prime, tau_policy: float[B, ...], of three lengths, with float32 values, because Dopamine rounds to these.
    """
    num_features = s_tm1[0].size
    counts = [array.shape[1] for array in (tau, tau_policy, tau_prime)]
    spans = {
        counts[0]: slice(num_features, num_features + counts[0]),
        counts[1]: slice(num_features, num_features + counts[1]),
        counts[2]: slice(num_features + counts[1], num_features + counts[1] + counts[2]),
    }
    online, target = _take(weights, "online/"), _take(weights, "target/")
    optimizer = optax.sgd(1.0)  # new weights are the old ones minus the gradient
    _, _, trained, loss = implicit_quantile_agent.train(
        ImplicitQuantileNetwork(int(num_actions), spans),
        online,
        target,
        optimizer,
        optimizer.init(online),
        jnp.concatenate([s_tm1.reshape(len(s_tm1), -1), tau], axis=1),
        a_tm1,
        jnp.concatenate([s_t.reshape(len(s_t), -1), tau_policy, tau_prime], axis=1),
        r_t,
        terminal,
        *(counts[0], counts[2], counts[1]),
        float(cumulative_gamma),
        bool(double),
        float(kappa),
        jax.random.PRNGKey(0),
    )
    return {"loss": loss, **{f"gradient/{name}": online[name] - trained[name] for name in online}}
