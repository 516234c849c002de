"""Whole updates against Dopamine's agents: importance weights, loss, gradient, Adam, target copies and new priorities."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from learner.algorithm.update import UpdateStep
from sbrl import config
from tests.oracles.client import TOLERANCE, Oracle
from tests.oracles.inputs import NUM_ACTIONS
from tests.oracles.networks import SPEC, draw_batch

NUM_UPDATES = 5
DISCOUNT = 31 / 32  # a float32 value, because Dopamine rounds to these
ROUNDED = 1e-7  # importance weights are float32

# Each of Dopamine's agents with its equivalent in SBRL.
AGENTS: dict[str, tuple[dict[str, Any], bool]] = {
    "dqn": ({"algorithm": "dqn"}, False),
    "quantile": ({"algorithm": "qr-dqn"}, False),  # computes importance weights, but does not weight the gradient with them
    "rainbow": ({"algorithm": "c51"}, True),
    "full-rainbow": ({"algorithm": "c51", "double": True, "dueling": True}, True),
}


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    """Makes float64 the default, because the update step makes its own networks."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", AGENTS)
def test_updates(oracle: Oracle, name: str) -> None:
    agent, importance_weights = AGENTS[name]
    tree = config.build(
        {
            "env": {"id": "CartPole-v1"},
            "agent": {**agent, "hidden_size": 16, "num_quantiles": 8, "num_atoms": 9, "v_max": 3.0},
            "learner": {"batch_size": 16, "learning_rate": 1e-2, "adam_epsilon": 1e-4, "target_update_period": 2},
            "replay": {"prioritized": True, "priority_exponent": 0.5, "importance_weights": importance_weights},
        }
    )
    step = UpdateStep(tree, SPEC, torch.device("cpu"))
    arrays: dict[str, Any] = {f"weights/{key}": tensor.numpy().copy() for key, tensor in step.state().online.items()}
    priorities = []
    for index in range(NUM_UPDATES):
        batch = draw_batch(seed=index)
        batch = batch._replace(discount_t=torch.where(batch.discount_t > 0, DISCOUNT, 0.0))
        elements = {
            "state": batch.s_tm1,
            "action": batch.a_tm1,
            "reward": batch.r_t,
            "next_state": batch.s_t,
            "terminal": batch.discount_t == 0,
            "sampling_probabilities": batch.probability,
        }
        arrays |= {f"batch/{index}/{element}": tensor.numpy() for element, tensor in elements.items()}
        priorities.append(step.update(batch).priorities.numpy())

    expected = oracle.ask(
        "dopamine.train",
        agent=name,
        num_actions=NUM_ACTIONS,
        learning_rate=tree.learner.learning_rate,
        adam_epsilon=tree.learner.adam_epsilon,
        cumulative_gamma=DISCOUNT,
        target_update_period=tree.learner.target_update_period,
        num_batches=NUM_UPDATES,
        num_quantiles=8,
        atoms=torch.linspace(-3.0, 3.0, 9),
        **arrays,
    )
    ours, theirs = f"{NUM_UPDATES} updates, {tree.agent.algorithm}", f"dopamine {name} _train_step"
    tolerance = ROUNDED if importance_weights else TOLERANCE
    for key, tensor in step.state().online.items():
        assert np.abs(tensor - arrays[f"weights/{key}"]).max() > 0.01
        oracle.compare(f"{ours}: weights", theirs, tensor, expected[f"weights/{key}"], tolerance)
    if name != "dqn":  # Dopamine's DQN samples uniformly
        for index, found in enumerate(priorities):
            oracle.compare(f"{ours}: priorities", theirs, found, expected[f"priorities/{index}"], tolerance)
