"""The data that actors send to the learner: streams of rows, cut into segments of one fixed shape. Pure NumPy.

One environment of one actor's incarnation writes a stream to one shard. A stream is a sequence of rows, one per step:

    frame: the newest frame of the observation     action: taken on it     reward, discount: the result of the action

An episode of T steps takes `stack - 1` rows of context (the older frames of its first observation), T rows for its steps, and
one row for its last observation. Rows that are not steps have the action PADDING: context, last observations, and the fill at a
stream's end. So a window that starts at a step and reads until the first PADDING never leaves its episode. If an episode was
truncated, its last discount is 1, and the learner bootstraps from the last observation.

A segment is W = (stack - 1) + L + n_max consecutive rows, one segment every L rows:

    row:       0 .. stack-2    stack-1 .. stack+L-2    stack+L-1 .. W-1
               context         L anchors               n_max rows to look ahead

Anchor j is row j + stack - 1. If it is a step, transition j of the segment consists of rows j .. j + stack - 1 + n for any
n <= n_max: the observation's stack and the rows after it. So a segment needs no other segment, every step of a stream is an
anchor of exactly one segment, and only the overlap of neighbours, stack - 1 + n_max rows of W, is stored twice.

The steps of each environment of an incarnation are numbered from 0 across all its streams: a new stream continues the numbers
of the one before. A segment carries its stream and the number of its first step. From these a reader knows which steps it has
already received (a resend, or a shard restored from its checkpoint) and which are missing, even at the end of a lost stream.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sbrl.config import SEGMENT_STEPS
from sbrl.envs.spec import EnvSpec

PADDING = -1  # the action of a row that is not a step
STREAM_FIELDS = ("actor", "incarnation", "env", "stream", "start", "previous_shard", "number")


class Stream(NamedTuple):
    """The writer of a segment. `stream` counts the streams of an environment within an incarnation, one per change of shard."""

    actor: int
    incarnation: int
    env: int
    stream: int
    start: int = 0  # the number of its first step: all lower numbers belong to earlier streams
    previous_shard: int = -1  # the shard of the stream before it; -1: this is the first stream


class SegmentShape(NamedTuple):
    """Shapes and dtypes of a segment's columns."""

    stack: int
    n_max: int
    frame_shape: tuple[int, ...]
    frame_dtype: np.dtype[Any]
    steps: int = SEGMENT_STEPS  # L

    @classmethod
    def of(cls, spec: EnvSpec, n_max: int) -> SegmentShape:
        return cls(spec.stack, n_max, spec.frame_shape, np.dtype(spec.frame_dtype))

    def without_frames(self) -> SegmentShape:
        """The shape of segments that omit the frames: for learners that sample from Reverb."""
        return self._replace(frame_shape=(0,))

    @property
    def rows(self) -> int:
        """W."""
        return self.stack - 1 + self.steps + self.n_max

    @property
    def anchors(self) -> slice:
        """The rows of the L anchors."""
        return slice(self.stack - 1, self.stack - 1 + self.steps)

    @property
    def num_bytes(self) -> int:
        """Size of one segment, uncompressed."""
        return sum(int(np.prod(dims)) * dtype.itemsize for dims, dtype in self.columns().values())

    def columns(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Column name -> (shape, dtype) of a segment."""
        return {
            "frame": ((self.rows, *self.frame_shape), self.frame_dtype),
            "action": ((self.rows,), np.dtype(np.int32)),
            "reward": ((self.rows,), np.dtype(np.float32)),
            "discount": ((self.rows,), np.dtype(np.float32)),
            "weights_version": ((self.rows,), np.dtype(np.int32)),
            "stream": ((1, len(STREAM_FIELDS)), np.dtype(np.int64)),
        }


class Segment(NamedTuple):
    """One segment; W rows."""

    frame: NDArray[Any]  # frame_dtype[W, *frame_shape]
    action: NDArray[np.int32]  # [W], PADDING if the row is not a step
    reward: NDArray[np.float32]  # [W], as the learner sees it: clipped if the config clips rewards
    discount: NDArray[np.float32]  # [W], before the discount factor: 0 if the step ended in a terminal state, else 1
    weights_version: NDArray[np.int32]  # [W], the weights that chose the action
    stream: NDArray[np.int64]  # [1, len(STREAM_FIELDS)]: the stream, and the number of the first step from the first anchor on

    @property
    def of(self) -> Stream:
        return Stream(*(int(field) for field in self.stream[0, :-1]))

    @property
    def first(self) -> int:
        """The number of its first step."""
        return int(self.stream[0, -1])

    def valid(self, shape: SegmentShape) -> NDArray[np.bool_]:
        """bool[L]: which anchors are steps; each of them is the anchor of a transition."""
        return np.not_equal(self.action[shape.anchors], PADDING)


class Row(NamedTuple):
    """One row of a stream."""

    frame: NDArray[Any]  # frame_dtype[*frame_shape]
    action: int
    reward: float
    discount: float
    weights_version: int
    number: int  # of the step; in a row that is not a step, the number of the next step


class Transition(NamedTuple):
    """The data of one step that a stream needs."""

    action: int
    reward: float  # as the learner sees it: clipped if the config clips rewards
    terminal: bool  # the state reached is terminal for the learner (not: the episode was truncated)
    frame: NDArray[Any]  # frame_dtype[*frame_shape], the newest frame of the observation reached
    weights_version: int


class RowSink(Protocol):
    """Where a stream's rows go."""

    def row(self, row: Row) -> None:
        """Takes the next row. The caller keeps the frame and may change it afterwards."""
        ...

    def segment(self) -> None:
        """Takes the last W rows as a segment."""
        ...


class StreamRows:
    """Turns the episodes of one stream into rows and reports when a segment is complete.

    `begin` an episode, `append` every step, then `end` it. `fill` completes the segments of all rows written so far. Segments
    without a step, which `fill` can produce, are left out. A call is O(stack); `fill` is O(W).
    """

    def __init__(self, shape: SegmentShape, sink: RowSink, start: int = 0) -> None:
        """Args: start: the number of the first step."""
        self._shape, self._sink = shape, sink
        self._frame: NDArray[Any] = np.zeros(shape.frame_shape, shape.frame_dtype)
        self._version = 0
        self._is_open = False  # whether an episode is running
        self._rows = 0  # written
        self._is_step: deque[bool] = deque(maxlen=shape.rows)  # of the last W rows
        self._last_step_row = -1
        self.steps = start  # the number of the next step

    def begin(self, observation: NDArray[Any]) -> None:
        """Starts an episode, or the rest of one, with `observation`, frame_dtype[stack, *frame_shape]."""
        assert not self._is_open, "an episode is running: its last observation is missing"
        self._is_open = True
        for frame in observation[:-1]:
            self._pad(frame)
        self._frame = observation[-1]

    def append(self, transition: Transition) -> None:
        """Writes one step."""
        assert self._is_open, "no episode was begun"
        self._version = transition.weights_version
        self._last_step_row = self._rows
        discount = 0.0 if transition.terminal else 1.0
        row = Row(self._frame, transition.action, transition.reward, discount, self._version, self.steps)
        self.steps += 1
        self._frame = transition.frame
        self._write(row)

    def end(self) -> None:
        """Writes the last observation: the episode is over, or is cut off here."""
        assert self._is_open, "no episode was begun"
        self._is_open = False
        self._pad(self._frame)

    def fill(self) -> None:
        """Writes padding until every step is the anchor of a segment. Call it after `end`, if no steps come for a while."""
        assert not self._is_open, "an episode is running: its windows would end in padding, not in its last observation"
        zeros = np.zeros_like(self._frame)
        while self.unmade:
            self._pad(zeros)

    @property
    def unmade(self) -> bool:
        """Whether there are steps that are not in a segment yet."""
        segments = max(0, (self._rows - self._shape.rows) // self._shape.steps + 1)
        return self._last_step_row >= self._shape.stack - 1 + segments * self._shape.steps

    def _pad(self, frame: NDArray[Any]) -> None:
        self._write(Row(frame, PADDING, 0.0, 0.0, self._version, self.steps))

    def _write(self, row: Row) -> None:
        self._sink.row(row)
        self._rows += 1
        self._is_step.append(row.action != PADDING)
        is_complete = self._rows >= self._shape.rows and (self._rows - self._shape.rows) % self._shape.steps == 0
        if is_complete and any(islice(self._is_step, self._shape.anchors.start, self._shape.anchors.stop)):
            self._sink.segment()
