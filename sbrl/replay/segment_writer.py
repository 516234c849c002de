"""Writes the segments of one environment's streams to their shards, one stream at a time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from sbrl.replay.backend import reverb
from sbrl.replay.reverb_writer import close_writer, flush_writer
from sbrl.replay.segment_tables import LOG, QUEUE
from sbrl.replay.segments import PADDING, Row, SegmentShape, Stream

_TABLES = (LOG, QUEUE)  # in this order, so that the log holds every segment of the queue


class _Sent(NamedTuple):
    """A segment that is not confirmed yet."""

    steps: int
    time: float  # seconds of the monotonic clock


class SegmentWriter:
    """Takes the rows of a stream and sends each segment as one item to the log and one to the queue of its shard.

    `open` a stream, then give it rows. `flush` bounds the number of unconfirmed segments. `close` ends the stream; segments
    that are unconfirmed at that time may or may not have been inserted.
    """

    def __init__(self, addresses: Sequence[str], shape: SegmentShape, age: Callable[[], int]) -> None:
        """Makes no connection.

        Args:
            addresses: host:port of each shard, in order.
            shape: of the segments.
            age: returns the run's current environment steps, which order the log.
        """
        self._addresses, self._shape, self._age = addresses, shape, age
        self._columns = {name: np.zeros(dims, dtype) for name, (dims, dtype) in shape.columns().items()}
        self._numbers = np.zeros(shape.rows, np.int64)
        self._rows = 0  # in the columns
        self._stream = Stream(0, 0, 0, 0)
        self._writer: Any = None
        self._unconfirmed: deque[_Sent] = deque()
        self.shard = -1  # of the stream that was opened last
        self.confirmed_steps = 0  # over all streams

    def open(self, shard: int, stream: Stream) -> None:
        """Starts a stream to `shard`. Unsent rows of the previous stream are dropped."""
        self.close()
        # Validation would fetch the table's signature without a time limit. Both sides use the same SegmentShape anyway.
        client = reverb.Client(self._addresses[shard])
        self._writer = client.trajectory_writer(num_keep_alive_refs=1, validate_items=False)
        self._stream, self.shard = stream, shard

    def row(self, row: Row) -> None:
        if self._rows == self._shape.rows:
            self._keep_overlap()
        k, columns = self._rows, self._columns
        columns["frame"][k] = row.frame
        columns["action"][k] = row.action
        columns["reward"][k] = row.reward
        columns["discount"][k] = row.discount
        columns["weights_version"][k] = row.weights_version
        self._numbers[k] = row.number
        self._rows += 1

    def segment(self) -> None:
        """Sends the last W rows."""
        shape = self._shape
        self._columns["stream"][0] = (*self._stream, self._numbers[shape.anchors.start])
        self._writer.append(self._columns)
        trajectory = {name: self._writer.history[name][-1:] for name in self._columns}
        priorities = {LOG: float(self._age()), QUEUE: 1.0}
        for table in _TABLES:
            self._writer.create_item(table=table, priority=priorities[table], trajectory=trajectory)
        steps = int(np.count_nonzero(self._columns["action"][shape.anchors] != PADDING))
        self._unconfirmed.append(_Sent(steps, time.monotonic()))

    @property
    def unconfirmed(self) -> int:
        """Upper bound on the number of unconfirmed segments (Reverb does not report the exact number)."""
        return len(self._unconfirmed)

    @property
    def oldest_seconds(self) -> float:
        """Seconds since the oldest segment that may be unconfirmed was sent; 0 if there is none."""
        return time.monotonic() - self._unconfirmed[0].time if self._unconfirmed else 0.0

    def flush(self, max_unconfirmed: int, timeout_seconds: float) -> bool:
        """Waits until at most `max_unconfirmed` segments are unconfirmed.

        Returns False if the time limit passes first. Nothing is lost: call again, or `close`.
        """
        if self._writer is None:
            return True
        if not flush_writer(self._writer, len(_TABLES) * max_unconfirmed, timeout_seconds):
            return False
        while len(self._unconfirmed) > max_unconfirmed:
            self.confirmed_steps += self._unconfirmed.popleft().steps
        return True

    def close(self) -> None:
        """Ends the stream at once. Unconfirmed segments, and rows that are not in a segment yet, are dropped."""
        if self._writer is not None:
            close_writer(self._writer)
        self._writer = None
        self._unconfirmed.clear()
        self._rows = 0

    def _keep_overlap(self) -> None:
        """Keeps the rows that the next segment begins with. Reverb has copied the other rows."""
        kept = self._shape.rows - self._shape.steps
        for column in (self._numbers, *(self._columns[name] for name in self._columns if name != "stream")):
            column[:kept] = column[self._shape.steps :]
        self._rows = kept
