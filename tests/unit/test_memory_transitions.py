"""The replay memory's transitions equal a plain reference's, in fixed shapes, without waits for the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

from learner.memory.replay import ReplayMemory
from learner.records import Batch
from sbrl.replay.items import Transitions, future_sequence
from tests.memories import memory_of, script_of, shape_of
from tests.scripted_episodes import check, items_by_definition, reference, terminals


def as_transitions(batch: Batch) -> Transitions:
    return Transitions(*(column.numpy() for column in batch[:5]))


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


_WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique", "equal", "item")


class NoWaiting(TorchDispatchMode):
    """Fails if the host's next step depends on a tensor's values, and notes all shapes."""

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
