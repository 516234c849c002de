"""The whole replay memory: eviction, growth and priorities against a slow, obvious memory; refusals; bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.memory.priorities import Draw
from learner.memory.replay import ReplayMemory
from sbrl.replay.sampling import memory_bytes
from sbrl.replay.segments import PADDING, Segment, SegmentShape
from tests.memories import CPU, fill, make_memory, numbered, sample_of, shape_of
from tests.scripted_episodes import numbers_of


class ObviousMemory:
    """Segments in a list, oldest first; each is [name, {anchor: priority}]."""

    def __init__(self, slots: int) -> None:
        self.slots, self.largest = slots, 1.0
        self.segments: list[list[Any]] = []

    def append(self, name: int, valid: Sequence[int]) -> None:
        self.segments.append([name, dict.fromkeys(valid, self.largest)])
        if len(self.segments) > self.slots:
            del self.segments[0]

    def prepend(self, name: int, valid: Sequence[int]) -> None:
        self.segments.insert(0, [name, dict.fromkeys(valid, self.largest)])

    def rewrite(self, name: int, valid: Sequence[int]) -> None:
        (segment,) = (segment for segment in self.segments if segment[0] == name)
        segment[1] = {anchor: segment[1].get(anchor, self.largest) for anchor in valid}

    def set_priorities(self, names: Sequence[tuple[int, int]], priorities: Sequence[float]) -> None:
        new: dict[tuple[int, int], float] = {}
        for name, priority in zip(names, priorities, strict=True):
            if 0 < priority < np.inf:
                new[name] = max(new.get(name, 0.0), priority)
        for (number, anchor), priority in new.items():
            for held in (held for held_number, held in self.segments if held_number == number):
                held[anchor] = priority
                self.largest = max(self.largest, priority)

    def priorities(self) -> dict[tuple[int, int], float]:
        return {(name, anchor): priority for name, held in self.segments for anchor, priority in held.items()}


@settings(max_examples=100, deadline=None)
@given(data=st.data(), slots=st.integers(1, 5))
def test_any_order_of_calls_leaves_what_an_obvious_memory_has(data: st.DataObject, slots: int):
    shape = shape_of()
    memory, model = make_memory(shape, capacity=slots * shape.steps), ObviousMemory(slots)
    slot_of: dict[int, int] = {}
    samples: list[tuple[Draw, list[tuple[int, int]]]] = []
    for number in range(data.draw(st.integers(1, 25))):
        valid = np.array(data.draw(st.lists(st.booleans(), min_size=4, max_size=4).filter(any)))
        anchors = np.flatnonzero(valid).tolist()
        action = data.draw(st.sampled_from(["append", "append", "prepend", "rewrite", "sample", "set", "set"]))
        if action == "append":
            slot_of[number] = memory.append(numbered(number, 4), valid)
            model.append(number, anchors)
        elif action == "prepend" and not memory.is_full:
            slot_of[number] = memory.prepend(numbered(number, len(anchors)))
            model.prepend(number, range(len(anchors)))
        elif action == "prepend":
            with pytest.raises(ValueError, match=r"all .* slots are filled"):
                memory.prepend(numbered(number, 4))
        elif action == "rewrite" and model.segments:
            segment, held = data.draw(st.sampled_from(model.segments))
            valid[list(held)] = True
            memory.rewrite(slot_of[segment], numbered(segment, 4), valid)
            model.rewrite(segment, np.flatnonzero(valid).tolist())
        elif action == "sample" and model.segments:
            sample = memory.sample(6)
            frames = memory.gather(sample, 1, 0.9).s_tm1.numpy()
            names = list(zip(numbers_of(frames)[:, 0].astype(int).tolist(), sample.anchor.tolist(), strict=True))
            held_now = model.priorities()
            total = sum(held_now.values())
            assert sample.probability.tolist() == pytest.approx([held_now[name] / total for name in names], rel=1e-9)
            samples.append((sample, names))
        elif action == "set" and samples:
            sample, names = data.draw(st.sampled_from(samples))
            values = st.sampled_from([0.25, 1.0, 7.5, 100.0, 0.0, -1.0, float("inf"), float("nan")])
            priorities = data.draw(st.lists(values, min_size=6, max_size=6))
            memory.set_priorities(sample, torch.tensor(priorities))
            model.set_priorities(names, priorities)
        held_now = model.priorities()
        assert memory.size == len(held_now)
        assert memory.max_priority == model.largest
        expected = np.zeros((slots, shape.steps))
        for (name, anchor), priority in held_now.items():
            expected[slot_of[name], anchor] = priority
        np.testing.assert_array_equal(memory._priorities.values, expected)
        np.testing.assert_array_equal(memory._priorities.sums, expected.sum(1))


def test_late_priorities_and_those_that_are_no_numbers_are_counted():
    memory = make_memory(shape_of(), capacity=8)
    names = fill(memory, [1, 1])
    sample = sample_of(memory, names)
    memory.append(numbered(2, 1))  # evicts the first
    memory.set_priorities(sample, torch.tensor([5.0, float("nan")]))
    memory.set_priorities(sample, torch.tensor([float("nan"), 0.0]))
    assert (memory.priorities_outdated, memory.priorities_unusable, memory.max_priority) == (2, 2, 1.0)
    memory.set_priorities(sample, torch.tensor([5.0, 3.0]))
    assert (memory.priorities_outdated, memory.priorities_unusable, memory.max_priority) == (3, 2, 3.0)
    assert memory._priorities.sums.tolist() == [1.0, 3.0]


def test_the_largest_priority_of_before_goes_on():
    memory = ReplayMemory(shape_of(), 8, CPU, seed=0, prioritized=True, max_priority=6.5)
    memory.append(numbered(0, 2))
    assert memory._priorities.sums.tolist() == [13.0, 0.0]
    with pytest.raises(ValueError, match="cannot be nan"):
        ReplayMemory(shape_of(), 8, CPU, seed=0, prioritized=True, max_priority=float("nan"))


def test_what_has_no_transition_is_refused_and_nothing_changes():
    memory = make_memory(shape_of(), capacity=8)
    with pytest.raises(ValueError, match="the memory is empty"):
        memory.sample(1)
    empty = numbered(0, 1)._replace(action=np.full(shape_of().rows, PADDING, np.int32))
    for take in (memory.append, memory.prepend):
        with pytest.raises(ValueError, match=r"segment 0 of Stream\(actor=2.* has no transition"):
            take(empty)
    assert (memory.size, memory.is_full) == (0, False)


@pytest.mark.filterwarnings("error")
def test_arrays_that_may_not_be_written_are_taken():
    """TensorFlow's arrays are read-only, and torch warns about such arrays."""
    segment = Segment(*(np.array(column) for column in numbered(3, 2)))
    for column in segment:
        column.flags.writeable = False
    memory = make_memory(shape_of())
    memory.append(segment, np.frombuffer(b"\1\1\0\0", np.bool_))
    assert memory.size == 2
    np.testing.assert_array_equal(memory._storage.frame[0], segment.frame)


def test_a_slot_that_was_given_to_another_segment_is_not_written():
    memory = make_memory(shape_of(), capacity=4)
    slot = memory.append(numbered(0, 2))
    memory.append(numbered(1, 1))
    with pytest.raises(ValueError, match="slot 0 holds another segment than 0"):
        memory.rewrite(slot, numbered(0, 3), np.array([True, True, True, False]))
    assert memory.size == 1


def test_bytes_are_known_before_and_taken_as_it_fills():
    shape = SegmentShape(4, 3, (84, 84), np.dtype(np.uint8))
    memory = make_memory(shape, capacity=1000)
    assert memory.capacity == 1024
    tensors = [*memory._storage, memory._priorities.values, memory._priorities.sums, memory._priorities.generation]
    assert memory_bytes(shape, 1000) == sum(tensor.nbytes for tensor in tensors)
    frames = shape.rows * 84 * 84
    empty = memory.resident_bytes
    assert empty == memory_bytes(shape, 1000) - 32 * frames
    segment = Segment(*(np.zeros(dims, dtype) for dims, dtype in shape.columns().values()))
    for count in range(1, 40):
        memory.append(segment)
        assert memory.resident_bytes == empty + min(count, 32) * frames
    assert memory_bytes(shape, 1_000_000) == 31_250 * (38 * (84 * 84 + 16) + 32 * 8 + 16)
