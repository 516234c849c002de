"""How often actors act at random."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from actors.epsilons import epsilons
from sbrl import config


def make_config(num_actors: int | None = 1, envs_per_actor: int = 3, **agent: Any) -> config.Config:
    return config.build(
        {
            "run": {"env_steps": 100_000},
            "replay": {"min_size": 1000},
            "agent": agent,
            "actors": {"num_actors": num_actors, "envs_per_actor": envs_per_actor},
        }
    )


@pytest.mark.parametrize(
    ("env_steps", "expected"),
    [(0, 0.9), (999, 0.9), (1000, 0.9), (1200, 0.8 * 0.9 + 0.2 * 0.1), (1999, 0.1008), (2000, 0.1), (10**6, 0.1)],
)
def test_linear_epsilon_falls_from_the_warm_up_on_the_same_everywhere(env_steps: int, expected: float) -> None:
    tree = make_config(epsilon_start=0.9, epsilon_end=0.1, epsilon_decay_steps=1000)
    for actor in (0, 7):
        np.testing.assert_allclose(epsilons(tree, env_steps, actor), [expected] * 3)


def test_linear_epsilon_without_decay_steps_at_once() -> None:
    tree = make_config(epsilon_decay_steps=0)
    assert epsilons(tree, 999, 0).tolist() == [1, 1, 1]
    assert epsilons(tree, 1000, 0).tolist() == [0.01, 0.01, 0.01]


def test_ape_x_ladder_is_horgans() -> None:
    tree = make_config(num_actors=4, envs_per_actor=2, exploration="ape-x")
    ladder = np.concatenate([epsilons(tree, 5000, actor) for actor in range(4)])
    # epsilon_i = epsilon ** (1 + i / (N - 1) * alpha) with epsilon 0.4, alpha 7 and here N = 8
    np.testing.assert_allclose(ladder, [0.4, 0.16, 0.064, 0.0256, 0.01024, 0.004096, 0.0016384, 0.00065536])
    assert (epsilons(tree, 10**9, 3) == ladder[6:]).all()  # the same at all times
    assert (epsilons(tree, 5000, 4) == ladder[:2]).all()  # an extra actor starts the ladder again
    assert epsilons(tree, 999, 3).tolist() == [1, 1]


@pytest.mark.parametrize("num_actors", [1, None])
def test_ape_x_ladder_of_few(num_actors: int | None) -> None:
    settings = {"exploration": "ape-x", "ape_x_epsilon": 0.5, "ape_x_exponent": 2}
    tree = make_config(num_actors, envs_per_actor=3, **settings)
    assert epsilons(tree, 5000, 0).tolist() == [0.5, 0.25, 0.125]
    assert epsilons(tree, 5000, 1).tolist() == [0.5, 0.25, 0.125]
    assert epsilons(make_config(num_actors, envs_per_actor=1, **settings), 5000, 0).tolist() == [0.5]


def test_noisy_nets_explore_by_themselves_once_the_replay_is_warm() -> None:
    tree = make_config(noisy=True, exploration="noisy-nets")
    assert epsilons(tree, 999, 0).tolist() == [1, 1, 1]
    assert epsilons(tree, 1000, 0).tolist() == [0, 0, 0]


def test_epsilons_are_float64() -> None:
    for settings in ({}, {"exploration": "ape-x"}, {"noisy": True, "exploration": "noisy-nets"}):
        for env_steps in (0, 5000):
            assert epsilons(make_config(**settings), env_steps, 0).dtype == np.float64
