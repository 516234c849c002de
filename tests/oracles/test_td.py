"""DQN's, Double DQN's and Munchausen-DQN's losses on random values, against rlax and Acme."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from learner.algorithm.losses.munchausen import munchausen_bonus, munchausen_targets
from learner.algorithm.losses.selection import select_action
from learner.algorithm.losses.td import TdError, q_targets
from sbrl import config
from tests.oracles.client import Oracle
from tests.oracles.inputs import BATCH_SIZE, NUM_ACTIONS, draw_transition, draw_values, gradient

SHAPE = (BATCH_SIZE, NUM_ACTIONS)


@pytest.mark.parametrize("kappa", [None, 0.1, 1.0, 5.0], ids=lambda kappa: f"kappa-{kappa}")
@pytest.mark.parametrize("double", [False, True], ids=["max", "double"])
def test_td(oracle: Oracle, double: bool, kappa: float | None) -> None:
    generator = np.random.default_rng(0)
    transition = draw_transition(generator)
    q_tm1, q_t, q_t_selector = (draw_values(generator, *SHAPE) for _ in range(3))
    q_tm1[:8] = q_t[:8]  # errors around 0 for zero rewards
    agent = config.Agent() if kappa is None else config.Agent(td_loss="huber", kappa=kappa)
    targets = q_targets(transition.r_t, transition.discount_t, q_t, q_t_selector if double else q_t)
    loss = TdError(agent)(select_action(q_tm1.requires_grad_(), transition.a_tm1), targets)

    more: dict[str, Any] = {"q_t_selector": q_t_selector} if double else {}
    if kappa is not None:
        more["kappa"] = kappa
    expected = oracle.ask("rlax.loss_and_gradient", loss="td", prediction=q_tm1, **transition._asdict(), q_t=q_t, **more)
    ours, theirs = f"td, {agent.td_loss}", f"rlax.{'double_' if double else ''}q_learning"
    oracle.compare(ours, theirs, loss, expected["loss"])
    oracle.compare(ours, theirs, gradient(loss, q_tm1), expected["gradient"])


@pytest.mark.parametrize(
    ("alpha", "temperature", "clip"), [(0.9, 0.03, -1.0), (1.0, 2.0, -0.5), (0.0, 1.0, -1.0), (0.9, 0.03, -1e3)]
)
@pytest.mark.parametrize("td_loss", ["mse", "huber"])
def test_munchausen(oracle: Oracle, td_loss: str, alpha: float, temperature: float, clip: float) -> None:
    generator = np.random.default_rng(1)
    transition = draw_transition(generator)
    q_tm1, q_t, q_tm1_target = (draw_values(generator, *SHAPE) for _ in range(3))
    bonus = munchausen_bonus(q_tm1_target, transition.a_tm1, temperature, clip)
    targets = munchausen_targets(transition.r_t, transition.discount_t, alpha * bonus, q_t, temperature)
    loss = TdError(config.Agent(td_loss=td_loss))(select_action(q_tm1.requires_grad_(), transition.a_tm1), targets)

    settings = {"alpha": alpha, "temperature": temperature, "clip": clip, "kappa": 1.0 if td_loss == "huber" else 3e5}
    expected = oracle.ask(
        "acme.loss_and_gradient",
        prediction=q_tm1,
        **transition._asdict(),
        q_tm1_target=q_tm1_target,
        q_t=q_t,
        **settings,
    )
    factor = 1 if td_loss == "huber" else 2  # Acme has only the Huber loss, with a half; this wide, it is half the square
    ours, theirs = f"munchausen, {td_loss}", "acme MunchausenQLearning"
    oracle.compare(ours, theirs, loss, factor * expected["loss"])
    oracle.compare(ours, theirs, gradient(loss, q_tm1), factor * expected["gradient"])
    assert clip <= bonus.min() < bonus.max() <= 0
    assert (bonus == clip).any()
