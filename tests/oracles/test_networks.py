"""Losses and gradients of all parameters of networks, against rlax, Acme and Dopamine with networks in JAX."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from learner.algorithm.losses.interface import make_loss
from learner.algorithm.losses.priorities import importance_weights
from sbrl import config
from sbrl.config.algorithms import ALGORITHMS
from sbrl.networks.heads.categorical import CategoricalHead
from tests.oracles.client import Oracle
from tests.oracles.inputs import NUM_ACTIONS
from tests.oracles.networks import draw_batch, make_network, set_fractions, weights

REFERENCE = {
    "dqn": "rlax.{}q_learning",
    "m-dqn": "acme MunchausenQLearning",
    "c51": "rlax.categorical_{}q_learning",
    "qr-dqn": "rlax.quantile_q_learning",
    "iqn": "rlax.quantile_q_learning / kappa",
}
COUNTS = {"num_tau_samples": 8, "num_tau_prime_samples": 5, "num_policy_samples": 3}
ROUNDED = 1e-7  # importance weights are float32


def make_agent(algorithm: str, **settings: Any) -> config.Agent:
    small = {"hidden_size": 16, "tau_embedding_size": 6, "num_atoms": 9, "v_min": -3.0, "v_max": 3.0, "num_quantiles": 8}
    return config.Agent(**{"algorithm": algorithm, **small, **COUNTS, **settings})


def draw_fractions(size: int) -> dict[int, Tensor]:
    """By count, float64[size, count] with float32 values, because Dopamine rounds to these."""
    generator = np.random.default_rng(6)
    return {count: torch.from_numpy(generator.random((size, count), dtype=np.float32)).double() for count in COUNTS.values()}


assert REFERENCE.keys() == set(ALGORITHMS), "an algorithm lacks a line here, and its network in reference_network.py"
CASES = [
    *((algorithm, {"double": double, "dueling": dueling}) for algorithm in ALGORITHMS if algorithm != "m-dqn"
      for double, dueling in ((False, False), (True, True))),
    ("m-dqn", {"td_loss": "huber"}),
    ("m-dqn", {"td_loss": "huber", "dueling": True, "munchausen_temperature": 0.5}),
    ("dqn", {"td_loss": "huber", "kappa": 0.3}),
    ("qr-dqn", {"kappa": 0.3}),
    ("iqn", {"kappa": 0.3}),
    ("c51", {"double": True, "dueling": True, "noisy": True}),
    ("iqn", {"noisy": True}),
]  # fmt: skip


@pytest.mark.parametrize(("algorithm", "settings"), CASES, ids=str)
def test_gradients_of_all_parameters(
    oracle: Oracle, monkeypatch: pytest.MonkeyPatch, algorithm: str, settings: dict[str, Any]
) -> None:
    agent = make_agent(algorithm, **settings)
    torch.manual_seed(0)
    online, target = make_network(agent, seed=1), make_network(agent, seed=2)
    batch, more = draw_batch(seed=7), _settings_of(agent)
    if isinstance(online.head, CategoricalHead):
        more["atoms"] = online.head.atoms
    if algorithm == "iqn":
        fractions = draw_fractions(len(batch.a_tm1))
        set_fractions(monkeypatch, fractions)
        more["tau"], more["tau_prime"], more["tau_policy"] = fractions.values()

    importance = importance_weights(batch.probability, exponent=0.7)
    result = make_loss(agent)(online.torso(batch.s_tm1), online, target, batch)
    (result.loss * importance).mean().backward()

    expected = oracle.ask(
        "network.loss_and_gradients",
        algorithm=algorithm,
        double=agent.double,
        num_actions=NUM_ACTIONS,
        importance=(batch.probability**-0.7 / (batch.probability**-0.7).max()),
        **{name: getattr(batch, name) for name in ("s_tm1", "a_tm1", "r_t", "discount_t", "s_t")},
        **weights(online, "online"),
        **weights(target, "target"),
        **more,
    )
    ours, theirs = f"{algorithm}, network", REFERENCE[algorithm].format("double_" if agent.double else "")
    oracle.compare(ours, theirs, result.loss, expected["loss"])
    for name, parameter in online.named_parameters():
        assert parameter.grad is not None
        oracle.compare(f"{ours}, weighted", theirs, parameter.grad, expected[f"gradient/{name}"], ROUNDED)
    assert all(parameter.grad is None for parameter in target.parameters())


def _settings_of(agent: config.Agent) -> dict[str, Any]:
    if agent.algorithm == "m-dqn":
        return {
            "alpha": agent.munchausen_alpha,
            "temperature": agent.munchausen_temperature,
            "clip": agent.munchausen_clip,
            "kappa": agent.kappa,
        }
    if agent.algorithm == "qr-dqn":
        return {"kappa": agent.kappa, "tau": ((np.arange(8) + 0.5) / 8)[None].repeat(16, axis=0)}
    return {"kappa": agent.kappa} if agent.algorithm == "iqn" or agent.td_loss == "huber" else {}


@pytest.mark.parametrize("double", [False, True], ids=["max", "double"])
@pytest.mark.parametrize("kappa", [1.0, 0.25])  # float32 values, for Dopamine rounds to these
def test_iqn_as_dopamine(oracle: Oracle, monkeypatch: pytest.MonkeyPatch, kappa: float, double: bool) -> None:
    agent = make_agent("iqn", double=double, kappa=kappa)
    online, target = make_network(agent, seed=1), make_network(agent, seed=2)
    batch, cumulative_gamma = draw_batch(seed=8), 31 / 32
    batch = batch._replace(discount_t=torch.where(batch.discount_t > 0, cumulative_gamma, 0.0).double())
    fractions = draw_fractions(len(batch.a_tm1))
    set_fractions(monkeypatch, fractions)
    loss = make_loss(agent)(online.torso(batch.s_tm1), online, target, batch).loss.mean()
    loss.backward()

    tau, tau_prime, tau_policy = fractions.values()
    expected = oracle.ask(
        "dopamine.implicit_quantile",
        **{name: getattr(batch, name) for name in ("s_tm1", "a_tm1", "r_t", "s_t")},
        terminal=batch.discount_t == 0,
        cumulative_gamma=cumulative_gamma,
        tau=tau,
        tau_prime=tau_prime,
        tau_policy=tau_policy,
        double=double,
        kappa=kappa,
        num_actions=NUM_ACTIONS,
        **weights(online, "online"),
        **weights(target, "target"),
    )
    oracle.compare("iqn, network", "dopamine implicit_quantile train", loss, expected["loss"])
    for name, parameter in online.named_parameters():
        oracle.compare("iqn, network", "dopamine implicit_quantile train", parameter.grad, expected[f"gradient/{name}"])
