"""The replay memory against plain references: transitions, sampling, eviction, and nothing that waits for the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

from learner.losses.priorities import importance_weights
from learner.memory.replay import ReplayMemory, Sample
from learner.memory.storage import memory_bytes
from learner.records import Batch
from sbrl.replay.items import Transitions, future_sequence
from sbrl.replay.segments import PADDING, Segment, SegmentShape
from tests.scripted_episodes import Episode, check, items_by_definition, numbers_of, reference, terminals
from tests.segment_sink import STREAM, segments_of

CPU = torch.device("cpu")


def make_memory(shape: SegmentShape, capacity: int = 1000, seed: int = 0, prioritized: bool = True) -> ReplayMemory:
    return ReplayMemory(shape, capacity, CPU, seed, prioritized)


def shape_of(stack: int = 1, n_max: int = 1, steps: int = 4) -> SegmentShape:
    return SegmentShape(stack, n_max, (2,), np.dtype(np.float32), steps)


def memory_of(script: Sequence[Episode], shape: SegmentShape) -> tuple[ReplayMemory, Sample]:
    """A memory with all transitions of the episodes, and the sample that has each of them once, in order."""
    memory = make_memory(shape, capacity=4000)
    names = []
    for segment in segments_of(script, shape, fill_after={len(script)}):
        slot = memory.append(segment)
        names += [(slot, anchor) for anchor in np.flatnonzero(segment.valid(shape))]
    assert memory.size == len(names)
    return memory, sample_of(memory, names)


def sample_of(memory: ReplayMemory, names: Sequence[tuple[int, int]]) -> Sample:
    """As if these (slot, anchor) had been sampled now."""
    slot, anchor = (torch.tensor(numbers) for numbers in zip(*names, strict=True))
    generation = memory._priorities.generation[slot]
    return Sample(slot, anchor, generation, torch.full((len(names),), 0.5, dtype=torch.float64), torch.tensor(memory.size))


def as_transitions(batch: Batch) -> Transitions:
    return Transitions(*(column.numpy() for column in batch[:5]))


def script_of(patterns: Sequence[tuple[bool, ...]]) -> list[Episode]:
    return [Episode(number, terminal, (len(terminal),)) for number, terminal in enumerate(patterns, start=1)]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), stack=st.integers(1, 4), n_max=st.integers(1, 12), steps=st.integers(1, 20))
def test_transitions_are_those_of_the_plain_reference(data: st.DataObject, stack: int, n_max: int, steps: int):
    """Every length and end of an episode, lives lost on the way, every n; n and gamma as numbers and as tensors."""
    script = script_of(data.draw(st.lists(terminals(longest=25), min_size=1, max_size=4)))
    discount = data.draw(st.floats(0.1, 1.0))
    memory, everything = memory_of(script, shape_of(stack, n_max, steps))
    for n_step in range(1, min(10, n_max) + 1):
        expected = [transition for episode in script for transition in reference(episode, stack, n_step, discount)]
        batch = memory.gather(everything, n_step, discount)
        check(as_transitions(batch), expected)
        scheduled = memory.gather(everything, torch.tensor(n_step), torch.tensor(discount, dtype=torch.float64))
        for column, same in zip(batch[:6], scheduled[:6], strict=True):
            assert column.dtype == same.dtype
            assert torch.equal(column, same)
    assert [column.dtype for column in batch[1:6]] == [
        *(torch.int64, torch.float32, torch.float32, torch.float32, torch.float64)
    ]


@settings(max_examples=100, deadline=None)
@given(data=st.data(), stack=st.integers(1, 4), jumps=st.integers(1, 5), spare=st.integers(0, 3), steps=st.integers(1, 9))
def test_the_sequence_that_follows_is_that_of_items(data: st.DataObject, stack: int, jumps: int, spare: int, steps: int):
    script = script_of(data.draw(st.lists(terminals(longest=12), min_size=1, max_size=4)))
    memory, everything = memory_of(script, shape_of(stack, jumps + spare, steps))
    got = memory.gather(everything, 1, 0.9, jumps).sequence
    assert got is not None
    expected = future_sequence(items_by_definition(script, stack, jumps + spare), stack, jumps)
    np.testing.assert_array_equal(got.valid, expected.valid)
    np.testing.assert_array_equal(got.action, expected.action)
    np.testing.assert_array_equal(got.observation[got.valid], expected.observation[expected.valid])
    assert memory.gather(everything, 1, 0.9).sequence is None


def test_versions_of_the_weights_are_those_of_the_steps():
    memory, everything = memory_of(script_of([(False,) * 9, (True,) * 5]), shape_of(stack=3, n_max=2))
    assert memory.weights_version(everything).tolist() == [*range(9), *range(5)]  # see tests.segment_sink.play


def test_more_steps_than_a_segment_has_rows_for_are_refused():
    memory, everything = memory_of(script_of([(False,) * 9]), shape_of(n_max=2))
    with pytest.raises(ValueError, match=r"n_step=3.*rows for 2 steps"):
        memory.gather(everything, 3, 0.9)
    with pytest.raises(ValueError, match=r"jumps=4.*rows for 2 steps"):
        memory.gather(everything, 1, 0.9, jumps=4)


# Sampling.


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
    """A GPU's cumulative sum, which is made in pieces, may rise by rounding where a slot is empty: here it does by much."""
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


# The memory as a whole, against a slow and obvious one.


def numbered(number: int, count: int) -> Segment:
    """A segment of `count` steps whose frames and actions say which it is."""
    segment = template(count)
    frame = np.tile(np.array([number, -number], np.float32), (len(segment.frame), 1))
    return segment._replace(frame=frame, stream=np.array([[*STREAM, number]], np.int64))


@cache
def template(count: int) -> Segment:
    (segment,) = segments_of([Episode(1, (False,) * count, (count,))], shape_of(), fill_after={1})
    return segment


def fill(memory: ReplayMemory, counts: Sequence[int]) -> list[tuple[int, int]]:
    """Appends segments of so many steps; the (slot, anchor) of each."""
    slots = [memory.append(numbered(number, count)) for number, count in enumerate(counts)]
    return [(slot, anchor) for slot, count in zip(slots, counts, strict=True) for anchor in range(count)]


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
    samples: list[tuple[Sample, list[tuple[int, int]]]] = []
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
            assert int(sample.transitions) == len(held_now)
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
    """TensorFlow's are such; torch warns of those that it is given as they are."""
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


# Memory.


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


# Fixed shapes, and no word from the device.

_WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique", "equal", "item")


class NoWaiting(TorchDispatchMode):
    """Fails where a tensor's values would decide what the host does next, and notes all shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[str, tuple[int, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert not any(name.startswith(waits) for waits in _WAITS), f"{func} waits for the device"
        if name in ("index", "index_put", "index_put_"):
            assert all(index is None or index.dtype != torch.bool for index in args[1]), "a mask's shape is its values'"
        result = func(*args, **kwargs or {})
        if isinstance(result, torch.Tensor):
            self.shapes.append((name, tuple(result.shape)))
        return result


@contextmanager
def no_waiting() -> Iterator[list[tuple[str, tuple[int, ...]]]]:
    mode = NoWaiting()
    with mode:
        yield mode.shapes


def one_batch(memory: ReplayMemory, n_step: torch.Tensor, discount: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    def step(uniform: torch.Tensor) -> torch.Tensor:
        sample = memory.draw(uniform)
        batch = memory.gather(sample, n_step, discount, jumps=2)
        memory.set_priorities(sample, batch.r_t.abs() + 0.1)
        return batch.r_t

    return step


def test_shapes_never_change_and_nothing_is_read_back():
    memory, _ = memory_of(script_of([(False,) * 20, (True,) * 30]), shape_of(stack=2, n_max=10, steps=8))
    seen = []
    for n_step in range(1, 11):
        step = one_batch(memory, torch.tensor(n_step), torch.tensor(0.9))
        uniform = torch.rand((2, 8), dtype=torch.float64)
        with no_waiting() as shapes:
            memory.sample(8)
            step(uniform)
        seen.append(shapes)
    assert len(seen[0]) > 30
    assert all(shapes == seen[0] for shapes in seen)


@pytest.mark.parametrize("waits", [lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: bool(x.sum()), torch.nonzero])
def test_the_guard_itself_notices(waits: Callable[[torch.Tensor], object]):
    x = torch.ones(3)
    with pytest.raises(AssertionError, match=r"waits for the device|a mask's shape"), no_waiting():
        waits(x)


def test_one_graph_serves_every_n():
    memory, _ = memory_of(script_of([(False,) * 20, (True,) * 30]), shape_of(stack=2, n_max=10, steps=8))
    counter = CompileCounter()
    n_step, discount = torch.tensor(1), torch.tensor(0.9)
    step = one_batch(memory, n_step, discount)
    compiled = torch.compile(step, backend=counter, fullgraph=True)
    for n in range(1, 11):
        n_step.fill_(n)
        uniform = torch.rand((2, 8), dtype=torch.float64)
        before = memory._priorities.values.clone(), memory._priorities.sums.clone()
        eager = step(uniform)
        memory._priorities.values.copy_(before[0])
        memory._priorities.sums.copy_(before[1])
        assert torch.equal(compiled(uniform), eager)
    assert counter.frame_count == 1
