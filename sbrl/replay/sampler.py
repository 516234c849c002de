"""The learner's way to one shard for remote sampling: batches in, priorities out, on threads of its own."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbrl.replay.backend import reverb
from sbrl.replay.datasets import TrajectoryDataset, tf
from sbrl.replay.items import TABLE, Items, ItemShape
from sbrl.replay.queue_probe import PROBE_SECONDS, QueueProbe

logger = logging.getLogger(__name__)

# One batch at a time needs no more; the GPU is the learner's.
_SESSION = tf.compat.v1.ConfigProto(
    intra_op_parallelism_threads=1, inter_op_parallelism_threads=1, use_per_session_threads=True, device_count={"GPU": 0}
)
MAX_PRIORITY_UPDATES = 64  # batches of priorities that may wait for one shard
# Why priorities did not reach their shard: it was gone; it took them too slowly; it refused them; the learner ended before.
DROP_REASONS = ("shard_lost", "shard_slow", "refused", "stopped")


class ShardSampler:
    """Streams batches of one shard into `sink`, and its priorities back.

    Reverb's sampler retries for ever without a word when its server is gone, and its calls that change priorities have no time
    limit (measured: both hang from a kill -9 until the server is back, and gRPC's back-off then adds seconds). So a probe
    watches the server; when it answers again after a silence, the stream is made again and what the old one still brings is
    thrown away.
    """

    def __init__(
        self, address: str, shard: int, shape: ItemShape, batch_size: int, sink: Callable[[Items, threading.Event], bool]
    ) -> None:
        """Starts nothing; `start` does.

        Args:
            sink: takes a batch and the event that cancels its stream; blocks while the learner is busy, and returns whether
                the batch was taken.
        """
        self.address, self.shard = address, shard
        self._shape, self._batch_size, self._sink = shape, batch_size, sink
        self._stopped = threading.Event()
        self._cancel_stream = threading.Event()
        self._priorities: queue.Queue[tuple[Items, NDArray[np.float64]]] = queue.Queue(MAX_PRIORITY_UPDATES)
        self.probe = QueueProbe(address, shard, on_up=self._start_stream)
        self._calls: dict[threading.Event, int] = {}  # priorities in a call in flight, by what cancels the thread that makes it
        self._dropping = threading.Lock()  # guards the counts, which three threads raise
        self.priorities_dropped = dict.fromkeys(DROP_REASONS, 0)

    def start(self) -> None:
        self.probe.start()

    def stop(self) -> None:
        """Asks all threads to end. One that hangs in Reverb is a daemon and ends with the process."""
        self.probe.stop()
        self._stopped.set()
        self._cancel_stream.set()
        self._give_up_call("stopped")
        with contextlib.suppress(queue.Empty):
            while True:
                items, _ = self._priorities.get_nowait()
                self._drop("stopped", len(items.key))

    def update_priorities(self, items: Items, priorities: NDArray[np.float64]) -> None:
        """Hands priorities, all finite, to the sending thread; with its queue full they are dropped and counted."""
        try:
            self._priorities.put_nowait((items, priorities))
        except queue.Full:
            self._drop("shard_slow" if self.is_up else "shard_lost", len(items.key))

    def _spawn(self, target: Callable[..., None], name: str, *args: Any) -> None:
        threading.Thread(target=target, args=args, name=f"shard-{self.shard}-{name}", daemon=True).start()

    @property
    def is_up(self) -> bool:
        """Whether the shard answers."""
        return not self.probe.is_away

    def _start_stream(self) -> None:
        self._cancel_stream.set()  # what an earlier stream still brings is thrown away
        self._give_up_call("shard_lost")
        self._cancel_stream = threading.Event()
        self._spawn(self._stream, "stream", self._cancel_stream)
        # A new client asks for the name's address again: the shard may be back at another.
        self._spawn(self._send_priorities, "priorities", reverb.Client(self.address), self._cancel_stream)

    def _give_up_call(self, reason: str) -> None:
        """Counts the priorities of a call in flight as dropped: it may hang for ever, and what becomes of it nobody learns."""
        self._drop(reason, self._calls.pop(self._cancel_stream, 0))

    def _drop(self, reason: str, priorities: int) -> None:
        with self._dropping:
            self.priorities_dropped[reason] += priorities

    def _stream(self, cancelled: threading.Event) -> None:
        try:
            for items in self._batches():
                if cancelled.is_set() or not self._sink(items, cancelled):
                    return
        except (tf.errors.OpError, RuntimeError) as error:
            logger.warning("stream of replay shard %d ended: %s", self.shard, error)
        if not cancelled.is_set() and not self._stopped.wait(PROBE_SECONDS):
            self._spawn(self._stream, "stream", cancelled)

    def _batches(self) -> Iterator[Items]:
        """What the shard serves, for as long as it does.

        In a session, which hands out arrays: each tensor that TensorFlow 2.15 makes outside of one leaks 32 bytes, ten in a
        batch, which is 50 MB an hour at fifty batches a second (`python -m bench.sampler`).
        """
        with tf.Graph().as_default(), tf.compat.v1.Session(config=_SESSION) as session:
            iterator = tf.compat.v1.data.make_initializable_iterator(self._dataset())
            session.run(iterator.initializer)
            structure = iterator.get_next()
            receive = session.make_callable(tf.nest.flatten(structure))
            while True:
                sample = tf.nest.pack_sequence_as(structure, receive())
                yield Items.from_columns(
                    sample.data,
                    key=sample.info.key,
                    probability=sample.info.probability,
                    table_size=int(sample.info.table_size[0]),
                    shard=self.shard,
                )

    def _dataset(self) -> Any:
        """Batches of the shard's items, in the graph that is current."""
        columns = self._shape.columns()
        dataset = TrajectoryDataset(
            server_address=self.address,
            table=TABLE,
            dtypes={name: tf.as_dtype(dtype) for name, (_, dtype) in columns.items()},
            shapes={name: tf.TensorShape(dims) for name, (dims, _) in columns.items()},
            # What waits here gets stale, so one batch, one worker.
            max_in_flight_samples_per_worker=self._batch_size,
            num_workers_per_iterator=1,
        ).batch(self._batch_size, drop_remainder=True)
        options = tf.data.Options()
        options.experimental_optimization.inject_prefetch = False  # would hold further batches
        options.autotune.enabled = False
        options.threading.private_threadpool_size = 1
        return dataset.with_options(options)

    def _send_priorities(self, client: Any, cancelled: threading.Event) -> None:
        while not cancelled.is_set():
            try:
                items, priorities = self._priorities.get(timeout=PROBE_SECONDS)
            except queue.Empty:
                continue
            self._calls[cancelled] = len(items.key)
            try:
                client.mutate_priorities(TABLE, dict(zip(items.key.tolist(), priorities.tolist(), strict=True)))
            except (RuntimeError, ValueError) as error:  # ValueError: a priority that is negative
                self._drop("refused", self._calls.pop(cancelled, 0))  # 0 where the call was given up meanwhile
                logger.warning("priorities for replay shard %d were refused: %s", self.shard, error)
                continue
            self._calls.pop(cancelled, 0)
