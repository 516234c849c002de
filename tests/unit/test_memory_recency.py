"""The replay memory samples valid transitions by age according to its law, also after evictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from learner.memory.replay import ReplayMemory
from sbrl.config import load
from sbrl.errors import UsageError
from tests.memories import CPU, fill, shape_of


def recent_first(capacity: int, horizon: int) -> ReplayMemory:
    return ReplayMemory(shape_of(), capacity, CPU, seed=0, prioritized=False, recency_horizon=horizon)


def law(count: int, horizon: int) -> NDArray[np.float64]:
    """By age, the newest first."""
    weights: NDArray[np.float64] = (1 - 1 / horizon) ** np.arange(count)
    share: NDArray[np.float64] = weights / weights.sum()
    return share


# Slots that are partly filled; once none was evicted, once the ring has gone round, so that the newest is in the middle.
@pytest.mark.parametrize("counts", [[4, 1, 3, 4, 2], [4, 1, 3, 4, 2, 4, 4, 1, 3, 2, 4, 2, 3]])
@pytest.mark.parametrize("horizon", [2, 5, 1000])
def test_ages_are_drawn_by_a_truncated_geometric_law(counts: list[int], horizon: int):
    memory = recent_first(capacity=40, horizon=horizon)
    names = fill(memory, counts)[-memory.size :]  # those that are there still, by age, the oldest first
    expected = law(len(names), horizon)
    age_of = {name: age for age, name in enumerate(reversed(names))}

    draws = 200_000
    sample = memory.sample(draws)
    ages = np.array([age_of[place] for place in zip(sample.slot.tolist(), sample.anchor.tolist(), strict=True)])
    np.testing.assert_allclose(sample.probability, expected[ages], rtol=1e-9)
    often = expected * draws >= 5
    seen = np.bincount(ages, minlength=len(names))
    rest = [[seen[~often].sum()], [expected[~often].sum() * draws]] if not often.all() else [[], []]
    observed = np.array([*seen[often], *rest[0]])
    wanted = np.array([*(expected[often] * draws), *rest[1]])
    statistic = ((observed - wanted) ** 2 / wanted).sum()
    assert statistic < stats.chi2.ppf(0.999, len(wanted) - 1)  # a fixed seed


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
@pytest.mark.parametrize("horizon", [2, 2**31 - 1])
def test_the_ends_of_the_law_are_transitions(uniform: float, horizon: int):
    memory = recent_first(capacity=40, horizon=horizon)
    names = fill(memory, [1, 4, 2])
    sample = memory.draw(torch.full((2, 1), uniform, dtype=torch.float64))
    assert (int(sample.slot), int(sample.anchor)) in names
    assert (int(sample.slot), int(sample.anchor)) == (names[-1] if uniform == 0 else names[0]) or horizon == 2


@pytest.mark.parametrize("override", ["replay.prioritized=true", "replay.sampling=auto"])
def test_what_it_does_not_go_with_is_refused(override: str):
    settings = ["replay.recency_horizon=1000", "replay.prioritized=false", "replay.sampling=cached"]
    assert load(overrides=settings).replay.recency_horizon == 1000
    with pytest.raises(UsageError, match=r"replay.recency_horizon is 1000 with .* set replay.prioritized=false"):
        load(overrides=[*settings, override])
