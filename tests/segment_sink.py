"""Segments of scripted episodes, as a writer sends them, without a shard."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

import numpy as np

from sbrl.replay.segments import Row, Segment, SegmentShape, Stream, StreamRows, Transition
from tests.scripted_episodes import Episode, frame_of

STREAM = Stream(actor=2, incarnation=3, env=5, stream=1)


class SegmentSink:
    """Keeps the segments of a stream."""

    def __init__(self, shape: SegmentShape, stream: Stream = STREAM) -> None:
        self._shape, self._stream = shape, stream
        self._rows: deque[Row] = deque(maxlen=shape.rows)
        self.segments: list[Segment] = []

    def row(self, row: Row) -> None:
        self._rows.append(row)

    def segment(self) -> None:
        rows = list(self._rows)
        assert len(rows) == self._shape.rows
        anchor = rows[self._shape.anchors.start]
        self.segments.append(
            Segment(
                frame=np.array([row.frame for row in rows], self._shape.frame_dtype),
                action=np.array([row.action for row in rows], np.int32),
                reward=np.array([row.reward for row in rows], np.float32),
                discount=np.array([row.discount for row in rows], np.float32),
                weights_version=np.array([row.weights_version for row in rows], np.int32),
                stream=np.array([[*self._stream, anchor.number]], np.int64),
            )
        )


def play(rows: StreamRows, episode: Episode, stack: int) -> None:
    """Writes an episode. Each step's weights version is its number within the episode."""
    rows.begin(np.array([frame_of(number) for number in episode.observation(0, stack)]))
    for t in range(episode.length):
        reached = frame_of(episode.frame(t + 1))
        rows.append(Transition(episode.action(t), episode.reward(t), episode.terminal[t], reached, weights_version=t))
    rows.end()


def segments_of(script: Sequence[Episode], shape: SegmentShape, fill_after: Collection[int]) -> list[Segment]:
    """The segments of episodes numbered from 1. The segment is filled up after each episode in `fill_after`."""
    sink = SegmentSink(shape)
    rows = StreamRows(shape, sink)
    for episode in script:
        play(rows, episode, shape.stack)
        if episode.number in fill_after:
            rows.fill()
    return sink.segments
