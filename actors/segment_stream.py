"""Writes one environment's segments to a shard, and moves to another shard when that one goes away."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from sbrl.replay.queue_probe import AWAY_SECONDS, QueueProbe
from sbrl.replay.segment_writer import SegmentWriter
from sbrl.replay.segments import SegmentShape, Stream, StreamRows, Transition

logger = logging.getLogger(__name__)

TURN_SECONDS = 0.25  # how often a waiting stream checks whether it should stop, or whether its shard is away
LOOK_SECONDS = 0.02  # instead of that, once waiting is pointless: only takes confirmations that are already there


def preferred_shard(actor: int, env: int, num_envs: int, num_shards: int) -> int:
    """The shard that an environment writes to while it answers: round-robin over all environments of all actors."""
    return (actor * num_envs + env) % num_shards


class SegmentStream:
    """Writes one environment's episodes. Waits, with bounded memory, while the queue is full, and leaves a lost shard.

    A shard is lost when it has not answered for AWAY_SECONDS. It is also lost when its queue has had room for that long, but
    this connection's segments do not get through: the machine at the other end is gone, and TCP does not notice. Unconfirmed
    steps, and steps that are in no segment yet, then count as dropped. The next stream begins on a shard that answers, with the
    present observation. When the next episode begins, it returns to the preferred shard if that answers again.
    """

    def __init__(
        self,
        writer: SegmentWriter,
        shape: SegmentShape,
        probes: Sequence[QueueProbe],
        first: Stream,
        preferred: int,
        stop: threading.Event,
        drain_seconds: float,
        while_blocked: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            first: the environment's first stream.
            preferred: the shard to write to while it answers.
            stop: set when the actor must stop. From then on only `close` waits, once, for `drain_seconds`.
            while_blocked: called four times a second during a wait, so that metrics show a wait before it is over.
        """
        self._writer, self._shape, self._probes = writer, shape, probes
        self._next, self._preferred = first, preferred
        self._stop, self._drain_seconds, self._while_blocked = stop, drain_seconds, while_blocked
        self._rows: StreamRows | None = None  # of the current stream
        self._in_episode = False
        self._left = -1  # the shard that was just given up, not to be chosen again at once
        self.created = 0  # steps written: confirmed, dropped or in flight
        self.blocked_seconds = 0.0
        self.inserted = 0  # steps that shards have confirmed
        self.dropped = 0  # steps given up with a shard
        self.dropped_at_close = 0  # of these, steps that no shard confirmed before the actor ended

    @property
    def shard(self) -> int:
        """The shard of the newest stream; -1 before the first."""
        return self._writer.shard

    @property
    def moves(self) -> int:
        """Number of streams begun after the first."""
        return max(0, self._next.stream - 1)

    @property
    def in_flight(self) -> int:
        """Steps that are neither confirmed nor given up."""
        return self.created - self.inserted - self.dropped

    def begin(self, observation: NDArray[Any]) -> None:
        """Starts an episode with its first observation, frame_dtype[stack, *frame_shape]."""
        if self._rows is not None and not self._stop.is_set():
            self._leave_if_better()
        if self._rows is None:
            self._rows = self._open()
        self._rows.begin(observation)
        self._in_episode = True

    def append(self, transition: Transition, observation: NDArray[Any]) -> None:
        """Writes one step; blocks while a segment of earlier steps is unconfirmed.

        The learner should train on steps while they are new. So an environment makes no step on top of a segment that waits. A
        segment is awaited at the step after its last one: until then it has usually arrived.

        Args:
            transition: the step.
            observation: the observation after the step. A stream that must move to another shard begins there with it.
        """
        assert self._rows is not None
        waiting = self._writer.unconfirmed
        self._rows.append(transition)
        self.created += 1
        self._confirm(self._writer.unconfirmed - waiting)
        if self._rows is None:
            self._rows = self._open()
            self._rows.begin(observation)

    def end(self) -> None:
        """Writes the last observation: the episode is over or cut off."""
        self._in_episode = False
        if self._rows is not None:
            waiting = self._writer.unconfirmed
            self._rows.end()
            self._confirm(self._writer.unconfirmed - waiting)

    def drain(self) -> None:
        """Puts all steps into segments, and waits until they are confirmed or `stop` is set. Call it after `end`."""
        if self._rows is not None:
            self._rows.fill()
            self._confirm(0)

    def close(self) -> None:
        """Waits one last time for unconfirmed steps, including a running episode; then drops and counts the rest."""
        if self._in_episode:
            self.end()
        if self._rows is not None:
            self._rows.fill()
            self._flush(0, self._drain_seconds)
            self.dropped_at_close = self.in_flight
            self._abandon()
        self._writer.close()

    def _leave_if_better(self) -> None:
        """Ends the stream if its shard is away, or if it is on another shard and the preferred one answers again."""
        assert self._rows is not None
        if self._probes[self.shard].is_away:
            self._give_up()
        elif self.shard != self._preferred and self._probes[self._preferred].wait_answer(0):
            self._rows.fill()
            if self._confirm(0):
                self._abandon()

    def _open(self) -> StreamRows:
        """Begins a stream on a shard that answers."""
        shard = self._answering_shard()
        self._left = -1
        stream = self._next._replace(start=self.created, previous_shard=self.shard)
        self._next = self._next._replace(stream=self._next.stream + 1)
        self._writer.open(shard, stream)
        return StreamRows(self._shape, self._writer, start=self.created)

    def _give_up(self) -> None:
        logger.warning(
            "left replay shard %d, which does not take segments: %d steps of environment %d are dropped",
            *(self.shard, self.in_flight, self._next.env),
        )
        self._left = self.shard
        self._abandon()

    def _abandon(self) -> None:
        """Ends the stream and drops its steps in flight."""
        self.dropped += self.in_flight
        self._writer.close()
        self._rows = None

    def _confirm(self, max_unconfirmed: int) -> bool:
        """Waits until at most this many segments are unconfirmed; False if the stream was given up or must stop first."""
        if self._writer.unconfirmed <= max_unconfirmed:
            return True
        start = time.monotonic()
        while not self._flush(max_unconfirmed, self._turn_seconds):
            start = self._count_blocked(start)
            if self._stop.is_set():
                return False
            if self._is_lost():
                self._give_up()
                return False
        self.blocked_seconds += time.monotonic() - start
        return True

    def _flush(self, max_unconfirmed: int, timeout_seconds: float) -> bool:
        """Waits for confirmations and counts them; returns whether at most this many segments are unconfirmed."""
        before = self._writer.confirmed_steps
        if not self._writer.flush(max_unconfirmed, timeout_seconds):
            return False
        self.inserted += self._writer.confirmed_steps - before
        return True

    def _is_lost(self) -> bool:
        """Whether the shard is away, or this connection to it is dead."""
        probe = self._probes[self.shard]
        return probe.is_away or min(self._writer.oldest_seconds, probe.room_seconds) > AWAY_SECONDS

    @property
    def _turn_seconds(self) -> float:
        return LOOK_SECONDS if self._stop.is_set() or self._is_lost() else TURN_SECONDS

    def _count_blocked(self, start: float) -> float:
        """Counts a wait since `start`, and returns the new start."""
        now = time.monotonic()
        self.blocked_seconds += now - start
        self._while_blocked()
        return now

    def _answering_shard(self) -> int:
        """The first shard, from the preferred one on, that is not away and has answered. Waits while all are away.

        The shard that was just given up comes last: if its connection was dead, its probe may still answer.
        """
        start = time.monotonic()
        order = [(self._preferred + k) % len(self._probes) for k in range(len(self._probes))]
        order.sort(key=lambda shard: shard == self._left)
        while not self._stop.is_set():
            shard = next((shard for shard in order if not self._probes[shard].is_away), self._preferred)
            if self._probes[shard].wait_answer(TURN_SECONDS):
                return shard
            start = self._count_blocked(start)
        return self._preferred
