"""Batches drawn from the learner's own memory, and their priorities."""

from __future__ import annotations

import numpy as np
import torch

from learner.algorithm.schedules import Horizon
from learner.batches import MemoryBatches
from sbrl import config
from tests.memories import fill, make_memory, memory_of, script_of, shape_of
from tests.scripted_episodes import reference

AGENT = config.build({"agent": {"n_step": 2}}).agent


def test_nothing_is_drawn_before_there_is_something() -> None:
    memory = make_memory(shape_of())
    batches = MemoryBatches(memory, AGENT, batch_size=3)
    assert not batches.is_ready
    fill(memory, [1])
    assert batches.is_ready
    assert batches.next(Horizon(1, 0.9), timeout=0.0).batch.a_tm1.shape == (3,)


def test_a_batch_has_the_horizon_asked_for_and_the_versions_of_its_own_transitions() -> None:
    script = script_of([(False,) * 9 + (True,), (False,) * 4])
    memory, _ = memory_of(script, shape_of(stack=2, n_max=3))
    batches = MemoryBatches(memory, AGENT, batch_size=64)
    for n_step, discount in ((1, 0.9), (3, 0.5)):
        drawn = batches.next(Horizon(n_step, discount), timeout=0.0)
        by_frame = {
            tuple(one.s_tm1): (step, one)
            for episode in script
            for step, one in enumerate(reference(episode, 2, n_step, discount))
        }
        versions = drawn.weights_versions()
        assert versions.dtype == np.int64
        for k in range(64):
            step, expected = by_frame[tuple(drawn.batch.s_tm1[k, :, 0].int().tolist())]
            assert (drawn.batch.a_tm1[k].item(), versions[k]) == (expected.a_tm1, step)  # see tests.segment_sink.play
            np.testing.assert_allclose(drawn.batch.r_t[k].item(), expected.r_t, rtol=1e-6)
            np.testing.assert_allclose(drawn.batch.discount_t[k].item(), expected.discount_t, rtol=1e-6)
        assert drawn.batch.sequence is None


def test_self_prediction_is_given_what_follows() -> None:
    agent = config.build({"agent": {"spr_weight": 5.0, "spr_jumps": 3}}).agent
    memory, _ = memory_of(script_of([(False,) * 9]), shape_of(n_max=5))
    sequence = MemoryBatches(memory, agent, batch_size=4).next(Horizon(1, 0.9), timeout=0.0).batch.sequence
    assert sequence is not None
    assert sequence.action.shape == (4, 3)


def test_priorities_go_to_what_was_drawn_and_late_ones_are_counted() -> None:
    memory = make_memory(shape_of(), capacity=4)  # room for one segment
    fill(memory, [1])
    batches = MemoryBatches(memory, AGENT, batch_size=2)
    drawn = batches.next(Horizon(1, 0.9), timeout=0.0)
    batches.update_priorities(drawn, torch.tensor([5.0, 3.0]))
    assert batches.max_priority() == 5.0
    assert memory._priorities.values.max().item() == 5.0
    fill(memory, [1])
    batches.update_priorities(drawn, torch.tensor([9.0, 9.0]))
    assert batches.priorities_ignored == 2
    drawn = batches.next(Horizon(1, 0.9), timeout=0.0)
    batches.update_priorities(drawn, torch.tensor([float("nan"), float("inf")]))
    assert batches.priorities_ignored == 4
    assert batches.max_priority() == 5.0
