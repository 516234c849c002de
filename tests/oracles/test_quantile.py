"""QR-DQN's and IQN's losses, with gradients in closed form, against rlax's with automatic differentiation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.algorithm.losses.quantile import midpoints, quantile_targets
from learner.algorithm.losses.quantile_huber import quantile_huber_loss
from learner.algorithm.losses.selection import select_action
from tests.oracles.client import Oracle
from tests.oracles.inputs import BATCH_SIZE, NUM_ACTIONS, Transition, draw_transition, draw_values, gradient


def expect(
    oracle: Oracle,
    transition: Transition,
    quantiles_tm1: Tensor,
    quantiles_t: Tensor,
    kappa: float,
    **more: Any,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """rlax's loss and gradient; without `tau`, at the midpoints of equal fractions."""
    num_quantiles = quantiles_tm1.shape[-1]
    midpoints = np.broadcast_to((2 * np.arange(num_quantiles) + 1) / (2 * num_quantiles), (BATCH_SIZE, num_quantiles))
    expected = oracle.ask(
        "rlax.loss_and_gradient",
        loss="quantile",
        prediction=quantiles_tm1,
        **transition._asdict(),
        quantiles_t=quantiles_t,
        kappa=kappa,
        **{"tau": midpoints, **more},
    )
    return expected["loss"], expected["gradient"]


@pytest.mark.parametrize("kappa", [0.1, 1.0, 5.0], ids=lambda kappa: f"kappa-{kappa}")
@pytest.mark.parametrize("double", [False, True], ids=["max", "double"])
@pytest.mark.parametrize(("fractions", "counts"), [("midpoints", (8, 8)), ("midpoints", (1, 1)), ("sampled", (8, 5))], ids=str)
def test_loss(oracle: Oracle, fractions: str, counts: tuple[int, int], double: bool, kappa: float) -> None:
    generator = np.random.default_rng(4)
    transition = draw_transition(generator)
    quantiles_tm1, quantiles_t = (draw_values(generator, BATCH_SIZE, NUM_ACTIONS, count) for count in counts)
    # Ties at the kinks of the loss: targets equal to some of the quantiles, and some at distance kappa.
    quantiles_tm1[:8] = quantiles_t[:8, :, :1]
    quantiles_tm1[8:16] = quantiles_t[8:16, :, :1] + kappa
    transition.r_t[:16], transition.discount_t[:16] = 0.0, 1.0
    more = {} if fractions == "midpoints" else {"tau": torch.from_numpy(generator.random((BATCH_SIZE, counts[0])))}
    q_t_selector = draw_values(generator, BATCH_SIZE, NUM_ACTIONS) if double else quantiles_t.mean(dim=-1)
    targets = quantile_targets(transition.r_t, transition.discount_t, quantiles_t, q_t_selector)
    quantiles = select_action(quantiles_tm1.requires_grad_(), transition.a_tm1)
    loss = quantile_huber_loss(quantiles, more.get("tau", midpoints(quantiles)), targets, kappa)

    if double:
        more["q_t_selector"] = q_t_selector
    expected_loss, expected_gradient = expect(oracle, transition, quantiles_tm1, quantiles_t, kappa, **more)
    ours = "quantile" if fractions == "midpoints" else "implicit-quantile"
    oracle.compare(ours, "rlax.quantile_q_learning", loss, expected_loss)
    oracle.compare(ours, "rlax.quantile_q_learning", gradient(loss, quantiles_tm1), expected_gradient)


def test_values_far_from_each_other(oracle: Oracle) -> None:
    """Prefix sums of squares lose digits where one sample spans nine orders of magnitude."""
    generator = np.random.default_rng(5)
    transition = draw_transition(generator)
    transition.r_t.zero_()
    scales = torch.tensor([1e-3, 1, 10, 100, 1e3, 1e4, 1e5, 1e6], dtype=torch.float64)
    quantiles_tm1, quantiles_t = (scales * torch.from_numpy(generator.normal(size=(64, NUM_ACTIONS, 8))) for _ in range(2))
    targets = quantile_targets(transition.r_t, transition.discount_t, quantiles_t, quantiles_t.mean(dim=-1))
    loss = quantile_huber_loss(
        select_action(quantiles_tm1.requires_grad_(), transition.a_tm1), midpoints(quantiles_tm1), targets, 1.0
    )
    expected_loss, expected_gradient = expect(oracle, transition, quantiles_tm1, quantiles_t, 1.0)
    oracle.compare("quantile, 1e-3 beside 1e6", "rlax.quantile_q_learning", loss, expected_loss)
    oracle.compare("quantile, 1e-3 beside 1e6", "rlax.quantile_q_learning", gradient(loss, quantiles_tm1), expected_gradient)
