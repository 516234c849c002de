"""One environment's stream into the replay memory of a serial run, without a network between them."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learner.memory.replay import ReplayMemory
from sbrl.config import SEGMENT_STEPS
from sbrl.replay.segments import PADDING, Row, Segment, SegmentShape, Stream, StreamRows, Transition


class SerialStream:
    """An `actors.collector.Stream`. A step is in the memory as soon as its n_max rows are there or its episode has ended."""

    def __init__(self, memory: ReplayMemory, env: int) -> None:
        self._memory = memory
        self._rows = StreamRows(memory.shape, self)
        self._stream = Stream(actor=0, incarnation=1, env=env, stream=0)
        self._growing: deque[_GrowingSegment] = deque()  # oldest first
        self._written = 0  # rows
        self.created = 0  # transitions, including those evicted since

    def begin(self, observation: NDArray[Any]) -> None:
        self._rows.begin(observation)

    def append(self, transition: Transition, observation: NDArray[Any]) -> None:
        self._rows.append(transition)

    def end(self) -> None:
        self._rows.end()

    def row(self, row: Row) -> None:
        """Adds a row to every growing segment that has it: usually one, near a boundary also the next one."""
        shape = self._memory.shape
        if self._written % shape.steps == 0:
            self._growing.append(_GrowingSegment(shape, self._stream))
        self._written += 1
        for segment in self._growing:
            self.created += segment.write(row, self._memory)
        if self._growing[0].is_complete:
            self._growing.popleft()

    def segment(self) -> None:
        """Nothing to do: a complete segment is already in the memory."""


class _GrowingSegment:
    """A segment that gets its rows one by one. Missing rows are padding."""

    def __init__(self, shape: SegmentShape, stream: Stream) -> None:
        columns = {name: np.zeros(dims, dtype) for name, (dims, dtype) in shape.columns().items()}
        columns["action"][:] = PADDING
        columns["stream"][0, :-1] = stream
        self._shape, self._segment = shape, Segment(**columns)
        self._valid: NDArray[np.bool_] = np.zeros(shape.steps, np.bool_)
        self._written = 0
        self._closed = shape.anchors.start  # for rows before this one, all that follows is known
        self._slot: int | None = None
        self._stored = 0  # rows that are in the memory

    @property
    def is_complete(self) -> bool:
        return self._written == self._shape.rows

    def write(self, row: Row, memory: ReplayMemory) -> int:
        """Takes the next row, and writes the transitions that it completes to the memory; returns their number."""
        shape, segment, at = self._shape, self._segment, self._written
        segment.frame[at], segment.action[at], segment.reward[at] = row.frame, row.action, row.reward
        segment.discount[at], segment.weights_version[at] = row.discount, row.weights_version
        if at == shape.anchors.start:
            segment.stream[0, -1] = row.number
        self._written += 1
        known = at if row.action == PADDING else at + 1 - shape.n_max
        closed = min(known, shape.anchors.stop)
        if closed <= self._closed:
            return 0
        fresh = segment.action[self._closed : closed] != PADDING
        self._valid[self._closed - shape.anchors.start : closed - shape.anchors.start] = fresh
        self._closed = closed
        count = int(fresh.sum())
        if count and self._slot is None:
            self._slot = memory.append(segment, self._valid)
        elif count:
            assert self._slot is not None
            memory.rewrite(self._slot, segment, self._valid, slice(self._stored, self._written))
        if count:
            self._stored = self._written
        return count


def segment_steps(capacity: int, num_envs: int, stack: int, n_max: int) -> int:
    """L, smaller for a small replay, so that a growing segment is never the oldest one and evicted.

    A segment grows for at most L + stack - 1 + n_max rows. Meanwhile, the other environments may write stack + 1 times as many
    rows, if their episodes have one step. All of that, and one segment each, must fit into half of the capacity. A segment of
    one step is complete at once, and needs no such room.
    """
    overlap = stack - 1 + n_max
    return max(1, min(SEGMENT_STEPS, (capacity // (2 * num_envs) - (stack + 1) * overlap) // (stack + 2)))
