"""Writes streams for remote sampling: each step as its own item, and segments without frames."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sbrl.replay.backend import reverb
from sbrl.replay.items import TABLE, ItemShape
from sbrl.replay.reverb_writer import close_writer, flush_writer
from sbrl.replay.segment_writer import SegmentWriter
from sbrl.replay.segments import PADDING, Row, SegmentShape, Stream

FRAME_CHUNK = 4  # frames compressed together: 2.3 times smaller than one by one, and few are unpacked without need
STEP_CHUNK = 8  # rows of the small columns sent together


class TransitionWriter(SegmentWriter):
    """A SegmentWriter that also sends each step as an item to the table of transitions, once its window is complete.

    The last window of a segment is complete together with the segment. So the items of its steps are sent before the segment,
    on a separate connection. A segment counts as confirmed once they are confirmed, too.
    """

    def __init__(
        self, addresses: Sequence[str], shape: SegmentShape, age: Callable[[], int], initial_priority: Callable[[], float]
    ) -> None:
        """Makes no connection.

        Args:
            addresses: host:port of each shard, in order.
            shape: of segments with frames.
            age: returns the run's current environment steps, which order the log.
            initial_priority: returns the priority of a new item.
        """
        super().__init__(addresses, shape.without_frames(), age)
        self._items = ItemShape.of_segments(shape)
        self._no_frame = np.zeros(0, shape.frame_dtype)
        self._initial_priority = initial_priority
        self._item_writer: Any = None
        self._unsent_steps = 0  # steps that have an item and are not in a segment yet

    def open(self, shard: int, stream: Stream) -> None:
        super().open(shard, stream)
        keep = self._items.num_frames + max(FRAME_CHUNK, STEP_CHUNK)
        client = reverb.Client(self._addresses[shard])
        self._item_writer = client.trajectory_writer(num_keep_alive_refs=keep, validate_items=False)
        for column in self._items.columns():
            chunk = FRAME_CHUNK if column == "frame" else STEP_CHUNK
            self._item_writer.configure((column,), num_keep_alive_refs=keep, max_chunk_length=chunk)

    def row(self, row: Row) -> None:
        super().row(row._replace(frame=self._no_frame))
        stream = self._stream
        self._item_writer.append(
            {
                "frame": row.frame,
                "action": np.int32(row.action),
                "reward": np.float32(row.reward),
                "discount": np.float32(row.discount),
                "meta": np.array([stream.actor, stream.incarnation, stream.env, row.number, row.weights_version], np.int64),
            }
        )
        step = self._rows - 1 - self._items.n_max  # the row whose window this row completes
        if step >= 0 and self._columns["action"][step] != PADDING:
            self._create_item()

    def segment(self) -> None:
        super().segment()
        self._unsent_steps = 0

    def flush(self, max_unconfirmed: int, timeout_seconds: float) -> bool:
        if self._item_writer is not None:
            may_wait = itertools.islice(reversed(self._unconfirmed), max_unconfirmed)
            items = self._unsent_steps + sum(sent.steps for sent in may_wait)
            if not flush_writer(self._item_writer, items, timeout_seconds):
                return False
        return super().flush(max_unconfirmed, timeout_seconds)

    def close(self) -> None:
        if self._item_writer is not None:
            close_writer(self._item_writer)
        self._item_writer, self._unsent_steps = None, 0
        super().close()

    def _create_item(self) -> None:
        history, n_max = self._item_writer.history, self._items.n_max
        steps = slice(-n_max - 1, -1)
        self._item_writer.create_item(
            table=TABLE,
            priority=self._initial_priority(),
            trajectory={
                "frame": history["frame"][-self._items.num_frames :],
                "action": history["action"][steps],
                "reward": history["reward"][steps],
                "discount": history["discount"][steps],
                "meta": history["meta"][-n_max - 1 : -n_max],
            },
        )
        self._unsent_steps += 1
