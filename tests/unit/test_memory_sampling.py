"""The replay memory samples valid transitions in proportion to priority, up to rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from learner.algorithm.losses.priorities import importance_weights
from tests.memories import fill, make_memory, numbered, sample_of, shape_of


# The 99.9 % quantiles of chi-square with 10 and 13 degrees of freedom: three anchors are drawn too seldom to be counted on.
@pytest.mark.parametrize(("prioritized", "cells", "quantile"), [(True, 11, 29.59), (False, 14, 34.53)])
def test_frequencies_are_in_proportion_to_priorities(prioritized: bool, cells: int, quantile: float):
    """Priorities over six orders of magnitude, slots with few valid anchors and slots never filled; fixed seeds."""
    memory = make_memory(shape_of(), capacity=80, prioritized=prioritized)
    names = fill(memory, [4, 1, 3, 4, 2])
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(1))
    priorities = torch.logspace(-3, 3, len(names), dtype=torch.float64)[order]
    memory.set_priorities(sample_of(memory, names), priorities)
    share = np.zeros((20, 4))
    share[tuple(zip(*names, strict=True))] = priorities / priorities.sum() if prioritized else 1 / len(names)

    draws, batch_size = 400_000, 20_000
    seen = np.zeros((20, 4), np.int64)
    for _ in range(draws // batch_size):
        sample = memory.sample(batch_size)
        places = sample.slot.numpy(), sample.anchor.numpy()
        np.add.at(seen, places, 1)
        np.testing.assert_allclose(sample.probability, share[places], rtol=1e-12)
    expected = share * draws
    often = expected >= 5
    statistic = ((seen - expected)[often] ** 2 / expected[often]).sum()
    assert often.sum() == cells
    assert statistic < quantile
    assert seen[share == 0].sum() == 0
    assert seen[~often].sum() <= 15


def test_a_seed_gives_the_same_samples_and_another_others():
    drawn = []
    for seed in (1, 1, 2):
        memory = make_memory(shape_of(), seed=seed)
        for k in range(20):
            memory.append(numbered(k, 4))
        drawn.append([memory.sample(8).slot.tolist() for _ in range(3)])
    assert drawn[0] == drawn[1] != drawn[2]


ALMOST_ONE = 1 - 2**-53


@settings(max_examples=200, deadline=None)
@given(
    counts=st.lists(st.integers(1, 4), min_size=1, max_size=9),
    exponents=st.lists(st.integers(-40, 40), min_size=36, max_size=36),
    uniform=st.lists(st.sampled_from([0.0, 2**-53, 0.25, 0.5, 1 - 2**-52, ALMOST_ONE]), min_size=2, max_size=2),
)
def test_no_rounding_selects_an_anchor_without_a_transition(counts: list[int], exponents: list[int], uniform: list[float]):
    memory = make_memory(shape_of(), capacity=40)
    names = fill(memory, counts)
    memory.set_priorities(sample_of(memory, names), 10.0 ** torch.tensor(exponents[: len(names)], dtype=torch.float64))
    sample = memory.draw(torch.tensor(uniform, dtype=torch.float64)[:, None])
    assert (int(sample.slot), int(sample.anchor)) in names
    assert sample.probability > 0


def test_a_search_that_ends_beyond_the_filled_slots_is_put_right():
    """A GPU makes cumulative sums in pieces, so rounding may make them rise at an empty slot: here by a large amount."""
    memory = make_memory(shape_of(), capacity=40)
    slots = {slot for slot, _ in fill(memory, [1, 1, 1])}

    class Rounding(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **kwargs or {})
            if func is torch.ops.aten.cumsum.default and args[0].dim() == 1:
                result[len(slots) :] += 0.5
            return result

    with Rounding():
        sample = memory.draw(torch.full((2, 1), ALMOST_ONE, dtype=torch.float64))
    assert int(sample.slot) in slots


def test_importance_weights_are_those_of_the_memorys_probabilities():
    memory = make_memory(shape_of(), capacity=40)
    names = fill(memory, [1, 1])
    memory.set_priorities(sample_of(memory, names), torch.tensor([1.0, 4.0]))
    sample = memory.draw(torch.tensor([[0.1, 0.9], [0.0, 0.0]], dtype=torch.float64))
    batch = memory.gather(sample, 1, 0.9)
    assert importance_weights(batch.probability, exponent=0.5).tolist() == [1.0, 0.5]
