"""A serial run's streams into the replay memory: when each step is there, and its content, against the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from learner.memory.priorities import Draw
from learner.memory.replay import ReplayMemory
from sbrl.config import SEGMENT_STEPS
from sbrl.replay.items import Transitions
from sbrl.replay.segments import SegmentShape, Transition
from single_process.stream import SerialStream, segment_steps
from tests.scripted_episodes import Episode, Expected, check, frame_of, reference, terminals

CPU = torch.device("cpu")


def observation_of(episode: Episode, t: int, stack: int) -> NDArray[np.float32]:
    return np.array([frame_of(number) for number in episode.observation(t, stack)])


def everything(memory: ReplayMemory) -> Draw:
    """All transitions of a memory with only one stream, as a sample; in order, because its slots are."""
    slot, anchor = (memory._priorities.values > 0).nonzero(as_tuple=True)
    probability = torch.ones(len(slot), dtype=torch.float64)
    return Draw(slot, anchor, memory._priorities.generation[slot], probability)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), stack=st.integers(1, 4), n_max=st.integers(1, 12), steps=st.integers(1, 20))
def test_a_step_is_there_as_soon_as_what_follows_it_is_known(data: st.DataObject, stack: int, n_max: int, steps: int):
    patterns = data.draw(st.lists(terminals(longest=25), min_size=1, max_size=4))
    n_step = data.draw(st.integers(1, n_max))
    memory = ReplayMemory(SegmentShape(stack, n_max, (2,), np.dtype(np.float32), steps), 2000, CPU, seed=0, prioritized=True)
    stream = SerialStream(memory, env=0)
    expected: list[Expected] = []
    for number, terminal in enumerate(patterns, start=1):
        episode = Episode(number, terminal, (len(terminal),))
        future = reference(episode, stack, n_step, discount=0.9)
        stream.begin(observation_of(episode, 0, stack))
        for t in range(episode.length):
            reached = observation_of(episode, t + 1, stack)
            step = Transition(episode.action(t), episode.reward(t), episode.terminal[t], reached[-1], weights_version=0)
            stream.append(step, reached)
            known = [*expected, *future[: max(0, t + 1 - n_max)]]
            assert memory.size == stream.created == len(known)
        stream.end()
        expected += future
        assert memory.size == stream.created == len(expected)
        batch = memory.gather(everything(memory), n_step, 0.9)
        check(Transitions(*(column.numpy() for column in batch[:5])), expected)


def test_what_is_there_keeps_its_priority_while_its_segment_grows():
    memory = ReplayMemory(SegmentShape(1, 2, (2,), np.dtype(np.float32), 8), 100, CPU, seed=0, prioritized=True)
    stream, episode = SerialStream(memory, env=0), Episode(1, (False,) * 20, (20,))

    def play(steps: range) -> None:
        for t in steps:
            reached = observation_of(episode, t + 1, 1)
            stream.append(Transition(episode.action(t), episode.reward(t), False, reached[-1], 0), reached)

    stream.begin(observation_of(episode, 0, 1))
    play(range(5))
    sample = everything(memory)
    memory.set_priorities(sample, torch.tensor([2.0, 4.0, 0.5]))
    play(range(5, 10))
    assert memory._priorities.values[0].tolist() == [2.0, 4.0, 0.5, 4.0, 4.0, 4.0, 4.0, 4.0]
    memory.set_priorities(sample, torch.tensor([1.0, 1.0, 1.0]))
    assert memory.priorities_outdated == 0


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    capacity=st.integers(1, 300),
    num_envs=st.integers(1, 4),
    stack=st.integers(1, 4),
    n_max=st.integers(1, 12),
)
def test_no_segment_is_evicted_while_it_grows(data: st.DataObject, capacity: int, num_envs: int, stack: int, n_max: int):
    """One long episode of the first environment beside the shortest ones of others, which fill the memory fastest."""
    steps = segment_steps(capacity, num_envs, stack, n_max)
    memory = ReplayMemory(SegmentShape(stack, n_max, (2,), np.dtype(np.float32), steps), capacity, CPU, 0, prioritized=False)
    streams = [SerialStream(memory, env) for env in range(num_envs)]
    length = data.draw(st.integers(1, 3))
    observation = np.zeros((stack, 2), np.float32)
    for stream in streams:
        stream.begin(observation)
    for t in range(1, 200):
        for env, stream in enumerate(streams):
            stream.append(Transition(0, 0.0, False, observation[-1], 0), observation)
            if env > 0 and t % length == 0:
                stream.end()
                stream.begin(observation)
    assert 0 < memory.size <= memory.capacity
    assert sum(stream.created for stream in streams) == 199 * num_envs - n_max - (num_envs - 1) * min(n_max, 199 % length)


@pytest.mark.parametrize(
    ("capacity", "num_envs", "stack", "n_max", "steps"),
    [(1_000_000, 8, 4, 3, SEGMENT_STEPS), (400, 8, 1, 3, 6), (1, 8, 4, 20, 1), (10_000, 256, 4, 10, 1)],
)
def test_segments_are_as_long_as_the_replay_allows(capacity: int, num_envs: int, stack: int, n_max: int, steps: int):
    assert segment_steps(capacity, num_envs, stack, n_max) == steps
