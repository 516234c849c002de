"""n-step transitions from items, against rlax's bootstrapped returns over the whole episode."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sbrl.envs.spec import EnvSpec
from sbrl.replay.items import Items, ItemShape, n_step_transitions
from sbrl.replay.segments import PADDING
from tests.oracles.client import Oracle

FLOAT32 = 5e-7  # transitions are float32
EPISODE_STEPS = 12
N_MAX = 10
STACK = 2


def items_of_episode(reward: NDArray[np.float32], terminals: list[int]) -> Items:
    """One item per step of an episode in which observation k has the number k + 1; `terminals`: steps that end one."""
    shape = ItemShape.of(EnvSpec(3, (1,), np.dtype(np.float32), STACK, "vector", False), N_MAX)
    steps, rows = len(reward), len(reward) + N_MAX
    frame = np.zeros((STACK - 1 + rows + 1, 1), np.float32)
    frame[STACK - 1 : STACK + steps, 0] = np.arange(1, steps + 2)
    action, rewards, discount = np.full(rows, PADDING, np.int32), np.zeros(rows, np.float32), np.zeros(rows, np.float32)
    action[:steps], rewards[:steps], discount[:steps] = 1, reward, 1.0
    discount[terminals] = 0.0

    def windows(rows: NDArray[Any], length: int) -> NDArray[Any]:
        return np.stack([rows[start : start + length] for start in range(steps)])

    return Items(
        frame=windows(frame, shape.num_frames),
        action=windows(action, N_MAX),
        reward=windows(rewards, N_MAX),
        discount=windows(discount, N_MAX),
        meta=np.zeros((steps, 1, 5), np.int64),
        key=np.zeros(steps, np.uint64),
        probability=np.full(steps, 1 / steps),
        shard=0,
    )


LAST = EPISODE_STEPS - 1


@pytest.mark.parametrize("terminals", [[LAST], [], [5, LAST]], ids=["terminal", "truncated", "life lost before"])
@pytest.mark.parametrize("n_step", [1, 3, 10])
@pytest.mark.parametrize("discount", [0.99, 0.5])
def test_returns(oracle: Oracle, discount: float, n_step: int, terminals: list[int]) -> None:
    generator = np.random.default_rng(9)
    reward = generator.normal(size=EPISODE_STEPS).astype(np.float32)
    v = generator.normal(size=EPISODE_STEPS + 2)  # of observation k at k + 1
    transitions = n_step_transitions(items_of_episode(reward, terminals), STACK, n_step, discount)
    later = transitions.s_t[:, -1, 0].astype(int)
    found = transitions.r_t.astype(np.float64) + transitions.discount_t * v[later]

    discounts = np.full(EPISODE_STEPS, discount)
    discounts[terminals] = 0.0
    expected = oracle.ask("rlax.n_step_returns", r_t=reward.astype(np.float64), discount_t=discounts, v_t=v[2:], n=n_step)
    oracle.compare("n-step returns", "rlax.n_step_bootstrapped_returns", found, expected["returns"], FLOAT32)
    assert (transitions.s_tm1[:, -1, 0] == np.arange(1, EPISODE_STEPS + 1)).all()
