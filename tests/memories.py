"""Replay memories for tests, small enough to compare as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch

from learner.memory.priorities import Draw
from learner.memory.replay import ReplayMemory
from sbrl.replay.segments import Segment, SegmentShape
from tests.scripted_episodes import Episode
from tests.segment_sink import STREAM, segments_of

CPU = torch.device("cpu")


def make_memory(shape: SegmentShape, capacity: int = 1000, seed: int = 0, prioritized: bool = True) -> ReplayMemory:
    return ReplayMemory(shape, capacity, CPU, seed, prioritized)


def shape_of(stack: int = 1, n_max: int = 1, steps: int = 4) -> SegmentShape:
    return SegmentShape(stack, n_max, (2,), np.dtype(np.float32), steps)


def memory_of(script: Sequence[Episode], shape: SegmentShape) -> tuple[ReplayMemory, Draw]:
    """A memory with all transitions of the episodes, and a sample that has each of them once, in order."""
    memory = make_memory(shape, capacity=4000)
    names = []
    for segment in segments_of(script, shape, fill_after={len(script)}):
        slot = memory.append(segment)
        names += [(slot, anchor) for anchor in np.flatnonzero(segment.valid(shape))]
    assert memory.size == len(names)
    return memory, sample_of(memory, names)


def sample_of(memory: ReplayMemory, names: Sequence[tuple[int, int]]) -> Draw:
    """The sample as if these (slot, anchor) had been drawn now."""
    slot, anchor = (torch.tensor(numbers) for numbers in zip(*names, strict=True))
    generation = memory._priorities.generation[slot]
    return Draw(slot, anchor, generation, torch.full((len(names),), 0.5, dtype=torch.float64))


def script_of(patterns: Sequence[tuple[bool, ...]]) -> list[Episode]:
    return [Episode(number, terminal, (len(terminal),)) for number, terminal in enumerate(patterns, start=1)]


def numbered(number: int, count: int) -> Segment:
    """A segment of `count` steps. Its frames and actions contain `number`."""
    segment = template(count)
    frame = np.tile(np.array([number, -number], np.float32), (len(segment.frame), 1))
    return segment._replace(frame=frame, stream=np.array([[*STREAM, number]], np.int64))


@cache
def template(count: int) -> Segment:
    (segment,) = segments_of([Episode(1, (False,) * count, (count,))], shape_of(), fill_after={1})
    return segment


def fill(memory: ReplayMemory, counts: Sequence[int]) -> list[tuple[int, int]]:
    """Appends segments with these numbers of steps; returns the (slot, anchor) of each step."""
    slots = [memory.append(numbered(number, count)) for number, count in enumerate(counts)]
    return [(slot, anchor) for slot, count in zip(slots, counts, strict=True) for anchor in range(count)]
