"""C51's projection and loss against rlax and Dopamine, especially at the edges of the support."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from learner.algorithm.losses.categorical import cross_entropy, expected_values, project_distribution
from learner.algorithm.losses.selection import select_action
from tests.oracles.client import Oracle
from tests.oracles.inputs import BATCH_SIZE, NUM_ACTIONS, Transition, draw_transition, draw_values, gradient

SUPPORTS = [(-10.0, 10.0, 51), (-1.0, 3.0, 9), (0.0, 1e-3, 2), (-5e3, 1e4, 9)]


def edge_transition(generator: np.random.Generator, atoms: Tensor) -> Transition:
    """Half of the returns fall exactly on atoms (terminals, and shifts by whole spacings), others beyond both ends."""
    transition = draw_transition(generator)
    quarter = BATCH_SIZE // 4
    r_t, discount_t = transition.r_t.clone(), transition.discount_t.clone()
    r_t[:quarter], discount_t[:quarter] = atoms[torch.arange(quarter) % len(atoms)], 0.0
    spacings = torch.arange(quarter) % (2 * len(atoms)) - len(atoms)
    r_t[quarter : 2 * quarter], discount_t[quarter : 2 * quarter] = spacings * (atoms[1] - atoms[0]), 1.0
    r_t[2 * quarter], r_t[2 * quarter + 1] = 3 * atoms[-1] + 1, 3 * atoms[0] - 1
    discount_t[2 * quarter : 2 * quarter + 2] = 0.0
    return transition._replace(r_t=r_t, discount_t=discount_t)


@pytest.mark.parametrize("support", SUPPORTS, ids=str)
def test_projection(oracle: Oracle, support: tuple[float, float, int]) -> None:
    generator = np.random.default_rng(2)
    atoms = torch.linspace(*support, dtype=torch.float64)
    transition = edge_transition(generator, atoms)
    probabilities_t = draw_values(generator, BATCH_SIZE, len(atoms)).softmax(dim=-1)
    found = project_distribution(transition.r_t, transition.discount_t, probabilities_t, atoms)

    inputs = {"r_t": transition.r_t, "discount_t": transition.discount_t, "probabilities_t": probabilities_t, "atoms": atoms}
    for oracle_name, reference in (("rlax", "rlax.categorical_l2_project"), ("dopamine", "dopamine project_distribution")):
        expected = oracle.ask(f"{oracle_name}.project", **inputs)["projection"]
        oracle.compare("categorical, projection", reference, found, expected)
    # A terminal's return on an atom gives that atom; one beyond the end gives the end.
    quarter = BATCH_SIZE // 4
    assert torch.equal(found[:quarter].argmax(dim=-1), torch.arange(quarter) % len(atoms))
    torch.testing.assert_close(found[2 * quarter : 2 * quarter + 2, [-1, 0]], torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("double", [False, True], ids=["max", "double"])
@pytest.mark.parametrize("support", SUPPORTS, ids=str)
def test_loss(oracle: Oracle, support: tuple[float, float, int], double: bool) -> None:
    generator = np.random.default_rng(3)
    atoms = torch.linspace(*support, dtype=torch.float64)
    transition = edge_transition(generator, atoms)
    logits_tm1, logits_t = (draw_values(generator, BATCH_SIZE, NUM_ACTIONS, len(atoms)) for _ in range(2))
    q_t_selector = draw_values(generator, BATCH_SIZE, NUM_ACTIONS) if double else expected_values(logits_t, atoms)
    probabilities_t = select_action(logits_t, q_t_selector.argmax(dim=-1)).softmax(dim=-1)
    targets = project_distribution(transition.r_t, transition.discount_t, probabilities_t, atoms)
    loss = cross_entropy(select_action(logits_tm1.requires_grad_(), transition.a_tm1), targets)

    more = {"q_t_selector": q_t_selector} if double else {}
    expected = oracle.ask(
        "rlax.loss_and_gradient",
        loss="categorical",
        prediction=logits_tm1,
        **transition._asdict(),
        logits_t=logits_t,
        atoms=atoms,
        **more,
    )
    theirs = f"rlax.categorical_{'double_' if double else ''}q_learning"
    oracle.compare("categorical", theirs, loss, expected["loss"])
    oracle.compare("categorical", theirs, gradient(loss, logits_tm1), expected["gradient"])
