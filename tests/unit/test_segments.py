"""Streams and segments against the plain reference: every step once, nothing across episodes, numbers without a gap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbrl.replay.segments import PADDING, Segment, SegmentShape, Stream, StreamRows, Transition
from tests.scripted_episodes import Episode, frame_of, numbers_of, terminals
from tests.segment_sink import STREAM, SegmentSink, play, segments_of


def shape_of(stack: int, n_max: int, steps: int) -> SegmentShape:
    return SegmentShape(stack, n_max, (2,), np.dtype(np.float32), steps)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), stack=st.integers(1, 4), n_max=st.integers(1, 12), steps=st.integers(1, 9))
def test_every_step_is_the_anchor_of_one_segment_which_stands_alone(data: st.DataObject, stack: int, n_max: int, steps: int):
    patterns = data.draw(st.lists(terminals(longest=25), min_size=1, max_size=5))
    fills = data.draw(st.sets(st.integers(1, len(patterns))))
    script = [Episode(number, terminal, (len(terminal),)) for number, terminal in enumerate(patterns, start=1)]
    shape = shape_of(stack, n_max, steps)
    segments = segments_of(script, shape, fill_after=fills | {len(script)})

    anchors = [(segment, row) for segment in segments for row in np.flatnonzero(segment.valid(shape)) + stack - 1]
    written = [(episode, t) for episode in script for t in range(episode.length)]
    assert len(anchors) == len(written)
    for (segment, row), (episode, t) in zip(anchors, written, strict=True):
        assert numbers_of(segment.frame[row - stack + 1 : row + 1]).tolist() == episode.observation(t, stack)
        # After the anchor: the episode's steps and last observation within the window, then no more of its steps.
        for k in range(n_max + 1):
            is_step = t + k < episode.length
            assert segment.action[row + k] == (episode.action(t + k) if is_step else PADDING)
            assert segment.discount[row + k] == float(is_step and not episode.terminal[t + k])
            assert numbers_of(segment.frame[row + k]) == episode.frame(t + k)
            if not is_step:
                break
            assert segment.reward[row + k] == np.float32(episode.reward(t + k))
            assert segment.weights_version[row + k] == t + k


@settings(max_examples=100, deadline=None)
@given(data=st.data(), stack=st.integers(1, 4), n_max=st.integers(1, 12), steps=st.integers(1, 9))
def test_segments_are_numbered_without_a_gap(data: st.DataObject, stack: int, n_max: int, steps: int):
    patterns = data.draw(st.lists(terminals(longest=25), min_size=1, max_size=5))
    script = [Episode(number, terminal, (len(terminal),)) for number, terminal in enumerate(patterns, start=1)]
    shape = shape_of(stack, n_max, steps)
    first = 0
    for segment in segments_of(script, shape, fill_after={2, len(script)}):
        assert (segment.of, segment.first) == (STREAM, first)
        count = int(segment.valid(shape).sum())
        assert count > 0  # otherwise a reader could not tell it from the next one
        first += count
    assert first == sum(episode.length for episode in script)


def test_where_nothing_is_filled_in_neighbours_overlap_and_only_the_last_steps_wait():
    shape = shape_of(stack=4, n_max=3, steps=8)
    sink = SegmentSink(shape)
    rows = StreamRows(shape, sink)
    play(rows, Episode(1, (False,) * 90, (90,)), stack=4)
    assert [segment.first for segment in sink.segments] == list(range(0, 88, 8))
    for earlier, later in zip(sink.segments, sink.segments[1:], strict=False):
        np.testing.assert_array_equal(earlier.frame[8:], later.frame[:-8])
    assert rows.unmade
    rows.fill()
    assert not rows.unmade
    assert int(sink.segments[-1].valid(shape).sum()) == 2
    made = len(sink.segments)
    rows.fill()
    assert len(sink.segments) == made


def test_a_segment_without_a_step_is_left_out():
    """After a fill, the anchors of five segments are padding, because n_max is larger than a segment."""
    shape = shape_of(stack=1, n_max=10, steps=2)
    script = [Episode(1, (False,), (1,)), Episode(2, (False,) * 3, (3,))]
    segments = segments_of(script, shape, fill_after={1, 2})
    assert [int(segment.valid(shape).sum()) for segment in segments] == [1, 2, 1]


FIRST, STEP = np.zeros((2, 2), np.float32), Transition(0, 0.0, False, frame_of(1), 0)


@pytest.mark.parametrize(
    ("calls", "refused"),
    [
        pytest.param([("begin", FIRST)], ("begin", FIRST), id="two episodes at once"),
        pytest.param([], ("append", STEP), id="a step of no episode"),
        pytest.param([("begin", FIRST), ("end",)], ("end",), id="the end of no episode"),
        pytest.param([("begin", FIRST), ("append", STEP)], ("fill",), id="padding in an episode"),
    ],
)
def test_what_would_write_a_window_across_episodes_is_refused(calls: Sequence[tuple[Any, ...]], refused: tuple[Any, ...]):
    rows = StreamRows(shape_of(2, 1, 4), SegmentSink(shape_of(2, 1, 4)))
    for name, *arguments in calls:
        getattr(rows, name)(*arguments)
    with pytest.raises(AssertionError):
        getattr(rows, refused[0])(*refused[1:])


def test_columns_and_bytes_are_those_of_a_segment():
    shape = SegmentShape(4, 3, (84, 84), np.dtype(np.uint8))
    assert shape.rows == 38
    columns = {name: np.zeros(dims, dtype) for name, (dims, dtype) in shape.columns().items()}
    assert tuple(columns) == Segment._fields
    assert shape.num_bytes == sum(column.nbytes for column in columns.values()) == 38 * (84 * 84 + 16) + 56
    assert Segment(**columns).of == Stream(0, 0, 0, 0, start=0, previous_shard=0)
