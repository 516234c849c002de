"""Reads one shard's queue for the learner, on separate threads, so that no shard waits for another."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from sbrl.replay.backend import reverb
from sbrl.replay.log_fill import LogFill
from sbrl.replay.queue_probe import PROBE_SECONDS, QueueProbe
from sbrl.replay.segment_tables import QUEUE, segment_of
from sbrl.replay.segments import Segment, SegmentShape

logger = logging.getLogger(__name__)

# Segments that one stream asks for, and the most that it takes from the queue. An abandoned stream that gets its connection
# back delivers these and ends, so it loses nothing. One or two segments are in flight beyond those that the sink has taken.
STREAM_SEGMENTS = 64

QueueSink = Callable[[int, Segment], None]
LogSink = Callable[[int, Segment], bool]


class SegmentReader:
    """Brings each segment of one shard's queue into a sink, and on request the segments of its log once.

    If its server is gone, Reverb's sampler retries for ever and reports nothing, and its calls that change priorities have no
    time limit. So a probe watches the server. When the server answers again after a silence, new streams are started. A thread
    that hangs in Reverb is abandoned: if it ever continues, it delivers the segments it already has and ends.
    """

    def __init__(self, address: str, shard: int, shape: SegmentShape, sink: QueueSink) -> None:
        """Starts nothing; `start` does.

        Args:
            sink: takes (shard, segment); blocks while the learner wants no more. Two threads may call it at once.
        """
        self.address, self.shard = address, shard
        self._shape, self._sink = shape, sink
        self._stopped = threading.Event()
        self._cancelled = threading.Event()  # for the threads that read now
        self._lock = threading.Lock()
        self._fill: LogFill | None = None
        self.probe = QueueProbe(address, shard, on_up=self._start_threads)
        self.filled = threading.Event()  # set when the log is read, or the sink has enough of it
        self._last_time = time.monotonic()
        self.segments = 0  # read from the queue
        self.refused = 0  # those among them with the wrong shape

    @property
    def is_up(self) -> bool:
        """Whether the shard answers."""
        return not self.probe.is_away

    @property
    def log_share_read(self) -> float:
        """The share of the log that the fill has read, from 0 to 1; 1 without a fill, or if the sink has enough."""
        if self._fill is None or self.filled.is_set():
            return 1.0
        return min(1.0, self._fill.read / self.probe.log_segments) if self.probe.log_segments else 0.0

    def drained_seconds(self) -> float:
        """Seconds for which every probe found the queue empty and no segment came."""
        return min(self.probe.empty_seconds, time.monotonic() - self._last_time)

    def start(self) -> None:
        self.probe.start()

    def stop(self) -> None:
        """Asks all threads to end. Segments that they hold are in the log, too. A thread that hangs ends with the process."""
        self.probe.stop()
        self._stopped.set()
        self._cancelled.set()

    def fill(self, term: int, sink: LogSink) -> None:
        """Reads the log, newest first, each segment once, then sets `filled`. Continues when a lost shard is back.

        Args:
            term: the learner's term. It is the fill's number, and above the numbers of all earlier fills.
            sink: takes (shard, segment); blocks like the queue's sink; returns whether the fill should continue.
        """
        with self._lock:
            self.filled.clear()
            self._fill = LogFill(term, self._shape, lambda segment: sink(self.shard, segment))
            if self.probe.wait_answer(0):
                self._spawn(self._read_log, "log", self._fill, self._cancelled)

    def _spawn(self, target: Callable[..., None], name: str, *args: Any) -> None:
        threading.Thread(target=target, args=args, name=f"shard-{self.shard}-{name}", daemon=True).start()

    def _start_threads(self) -> None:
        with self._lock:
            self._cancelled.set()
            self._cancelled = threading.Event()
            if self._stopped.is_set():
                return
            self._spawn(self._read_queue, "queue", self._cancelled)
            if self._fill is not None and not self.filled.is_set():
                self._spawn(self._read_log, "log", self._fill, self._cancelled)

    def _read_queue(self, cancelled: threading.Event) -> None:
        # A new client resolves the name again: the shard may be back at another address.
        client = reverb.Client(self.address)
        while not cancelled.is_set():
            try:
                for sample in client.sample(QUEUE, num_samples=STREAM_SEGMENTS, emit_timesteps=False):
                    if self._stopped.is_set():
                        return
                    self._deliver(sample)
            except RuntimeError as error:
                logger.warning("stream of replay shard %d ended: %s", self.shard, error)
                cancelled.wait(PROBE_SECONDS)

    def _deliver(self, sample: Any) -> None:
        self.segments += 1
        self._last_time = time.monotonic()
        try:
            segment = segment_of(sample.data, self._shape)
        except ValueError as error:
            self.refused += 1
            logger.warning("a segment of replay shard %d is left out: %s", self.shard, error)
            return
        self._sink(self.shard, segment)

    def _read_log(self, fill: LogFill, cancelled: threading.Event) -> None:
        client = reverb.Client(self.address)
        while not cancelled.is_set():
            try:
                if fill.go_on(client, cancelled.is_set) and fill is self._fill:
                    self.filled.set()
                    logger.info("read %d segments of replay shard %d's log", fill.read, self.shard)
                    if fill.refused:
                        logger.warning("%d segments of replay shard %d's log are of another shape", fill.refused, self.shard)
                return
            except (RuntimeError, reverb.errors.DeadlineExceededError) as error:
                logger.warning("the log of replay shard %d could not be read: %s; trying again", self.shard, error)
                cancelled.wait(PROBE_SECONDS)
