"""The learner's connection to one shard for remote sampling: batches in, priorities out, on separate threads."""

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

# One thread is enough for one batch at a time, and the GPU belongs to the learner.
_SESSION = tf.compat.v1.ConfigProto(
    intra_op_parallelism_threads=1, inter_op_parallelism_threads=1, use_per_session_threads=True, device_count={"GPU": 0}
)
MAX_PRIORITY_UPDATES = 64  # batches of priorities that may wait for one shard


class ShardSampler:
    """Streams batches of one shard into `sink`, and sends priorities back.

    If its server is gone, Reverb's sampler retries for ever and reports nothing, and its calls that change priorities have no
    time limit (measured: both hang from a kill -9 until the server is back, and gRPC's back-off then adds seconds). So a probe
    watches the server. When the server answers again after a silence, a new stream is started, and batches that the old one
    still delivers are discarded.
    """

    def __init__(
        self, address: str, shard: int, shape: ItemShape, batch_size: int, sink: Callable[[Items, threading.Event], bool]
    ) -> None:
        """Starts nothing; `start` does.

        Args:
            sink: takes a batch and the event that cancels its stream; blocks while the learner is busy; returns whether it
                took the batch.
        """
        self.address, self.shard = address, shard
        self._shape, self._batch_size, self._sink = shape, batch_size, sink
        self._stopped = threading.Event()
        self._cancel_stream = threading.Event()
        self._priorities: queue.Queue[tuple[Items, NDArray[np.float64]]] = queue.Queue(MAX_PRIORITY_UPDATES)
        self.probe = QueueProbe(address, shard, on_up=self._start_stream)
        self._calls: dict[threading.Event, int] = {}  # priorities in the call in flight, by the event that cancels its thread
        self._dropping = threading.Lock()  # guards the count, which three threads increment
        self.priorities_dropped = 0  # the shard was gone, slow or refused them, or the learner ended

    def start(self) -> None:
        self.probe.start()

    def stop(self) -> None:
        """Asks all threads to end. A thread that hangs in Reverb is a daemon and ends with the process."""
        self.probe.stop()
        self._stopped.set()
        self._cancel_stream.set()
        self._give_up_call()
        with contextlib.suppress(queue.Empty):
            while True:
                items, _ = self._priorities.get_nowait()
                self._drop(len(items.key))

    def update_priorities(self, items: Items, priorities: NDArray[np.float64]) -> None:
        """Hands priorities, all finite, to the sending thread. If its queue is full, they are dropped and counted."""
        try:
            self._priorities.put_nowait((items, priorities))
        except queue.Full:
            self._drop(len(items.key))

    def _spawn(self, target: Callable[..., None], name: str, *args: Any) -> None:
        threading.Thread(target=target, args=args, name=f"shard-{self.shard}-{name}", daemon=True).start()

    @property
    def is_up(self) -> bool:
        """Whether the shard answers."""
        return not self.probe.is_away

    def _start_stream(self) -> None:
        self._cancel_stream.set()  # discards the batches that an earlier stream still delivers
        self._give_up_call()
        self._cancel_stream = threading.Event()
        self._spawn(self._stream, "stream", self._cancel_stream)
        # A new client resolves the name again: the shard may be back at another address.
        self._spawn(self._send_priorities, "priorities", reverb.Client(self.address), self._cancel_stream)

    def _give_up_call(self) -> None:
        """Counts the priorities of a call in flight as dropped: the call may hang for ever, and its outcome is unknown."""
        self._drop(self._calls.pop(self._cancel_stream, 0))

    def _drop(self, priorities: int) -> None:
        with self._dropping:
            self.priorities_dropped += priorities

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
        """Batches from the shard, for as long as it serves them.

        They are read in a session, which returns arrays. Outside a session, TensorFlow 2.15 leaks 32 bytes per tensor. With ten
        tensors in a batch and fifty batches a second this is 50 MB an hour (`python -m bench.sampler`).
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
                    shard=self.shard,
                )

    def _dataset(self) -> Any:
        """Batches of the shard's items, in the current graph."""
        columns = self._shape.columns()
        dataset = TrajectoryDataset(
            server_address=self.address,
            table=TABLE,
            dtypes={name: tf.as_dtype(dtype) for name, (_, dtype) in columns.items()},
            shapes={name: tf.TensorShape(dims) for name, (dims, _) in columns.items()},
            # Waiting items get stale, so: one batch, one worker.
            max_in_flight_samples_per_worker=self._batch_size,
            num_workers_per_iterator=1,
        ).batch(self._batch_size, drop_remainder=True)
        options = tf.data.Options()
        options.experimental_optimization.inject_prefetch = False  # would hold more batches
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
                self._drop(self._calls.pop(cancelled, 0))  # 0 if the call was given up meanwhile
                logger.warning("priorities for replay shard %d were refused: %s", self.shard, error)
                continue
            self._calls.pop(cancelled, 0)
