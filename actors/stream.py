"""One environment's stream of transitions, kept going when shards come and go."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from sbrl.replay.probe import ShardProbe
from sbrl.replay.segments import Transition
from sbrl.replay.writer import BlockedError, EpisodeWriter
from sbrl.sharding import episode_shard

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 0.5  # how often a blocked actor looks whether it should stop, or whether the shard is gone
# A shard that is silent for longer is left for another, with what it had not confirmed. A restart takes some ten seconds, and
# while a shard writes a checkpoint it may not answer either.
GIVE_UP_SECONDS = 30.0


class Identity(NamedTuple):
    """Who writes; kept with every item."""

    actor: int
    incarnation: int
    env: int


class WarmUp(NamedTuple):
    """While the shards fill for the first time, episodes are cut into pieces that take turns over the shards.

    Each shard opens at its own share of replay.min_size: with whole episodes (a game of Freeway has 2,048 steps) some would
    open long after others, and the open ones would serve samples that the whole replay is not due yet.
    """

    piece_steps: int
    is_on: Callable[[], bool]


class TransitionStream:
    """Writes one environment's episodes, each to one shard; waits while the learner is behind, bounded in memory and time.

    When the shard of an episode is gone for `GIVE_UP_SECONDS`, the rest of the episode goes to a shard that answers, as a piece
    of its own: its first items start from the observation at hand, and no window spans both shards. So it does when the shard
    would admit items and this stream's do not get through for as long: the machine that its connection led to is gone, and the
    shard is back on another, which nobody tells TCP.
    """

    def __init__(
        self,
        writer: EpisodeWriter,
        probes: Sequence[ShardProbe],
        identity: Identity,
        max_in_flight: int,
        stop: threading.Event,
        drain_seconds: float,
        warm_up: WarmUp,
        while_blocked: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            max_in_flight: items that may be unconfirmed.
            stop: set when the actor is to stop; from then on no wait is longer than `drain_seconds`.
            warm_up: how episodes are cut while the shards fill for the first time.
            while_blocked: called twice a second of a wait, so that what waits is seen to wait before it is over.
        """
        self._while_blocked = while_blocked
        self._drain_seconds, self._warm_up = drain_seconds, warm_up
        self._piece_steps = 0
        self._unmade = 0  # steps whose items were never made, for their shard was lost before
        self._writer, self._probes, self._identity = writer, probes, identity
        self._max_in_flight, self._stop = max_in_flight, stop
        self._episode = 0
        self.blocked_seconds = 0.0
        self.dropped = 0
        self.dropped_at_close = 0  # those of them that a shard did not confirm before the actor ended
        self.inserted = [0] * len(probes)  # items that each shard has confirmed

    @property
    def created(self) -> int:
        """Steps written: items that are confirmed, dropped or in flight, and steps that will become one or were lost before."""
        return self._writer.items_created + self._writer.unmade + self._unmade

    @property
    def in_flight(self) -> int:
        """The most items that can be unconfirmed now."""
        return self._writer.unconfirmed

    def begin(self, observation: NDArray[Any]) -> None:
        """Starts an episode with its first observation, frame_dtype[stack, *frame_shape]."""
        identity = self._identity
        preferred = episode_shard(identity.actor, identity.env, self._episode, len(self._probes))
        self._episode += 1
        if self._writer.unconfirmed:  # the actor stops, and the episode before is not through: what is left is of one shard
            preferred = self._writer.shard
        self._begin_on(self._healthy_shard(preferred), observation)

    def append(self, transition: Transition, observation: NDArray[Any]) -> None:
        """Writes one step; blocks while too much is unconfirmed.

        Args:
            transition: the step.
            observation: the one it reached, should the stream have to move to another shard.
        """
        self._writer.append(transition)
        self._piece_steps += 1
        self._confirm(self._max_in_flight, observation)
        if self._piece_steps >= self._warm_up.piece_steps and self._warm_up.is_on():
            self.end()
            self.begin(observation)

    def end(self) -> None:
        """Writes what completes the episode's last items and waits until all are confirmed."""
        self._writer.end()
        if self._confirm(0, None):
            self._writer.close_episode(self._patience)

    def close(self) -> None:
        """Gives unconfirmed items one last chance, then drops and counts them."""
        with contextlib.suppress(BlockedError):
            self._writer.flush(0, self._patience)
        dropped_before = self.dropped
        self._count_lost()
        self.dropped_at_close = self.dropped - dropped_before
        self._writer.close()

    @property
    def _patience(self) -> float:
        """Seconds for one wait."""
        return min(FLUSH_SECONDS, self._drain_seconds) if self._stop.is_set() else FLUSH_SECONDS

    def _abandon(self) -> None:
        """Gives up what the lost shard had not confirmed, and the steps that had not become items yet."""
        self._count_lost()
        self._writer.abandon()

    def _count_lost(self) -> None:
        self._count_inserted()
        self.dropped += self._writer.unconfirmed + self._writer.unmade
        self._unmade += self._writer.unmade

    def _count_inserted(self) -> None:
        """Attributes to the current shard what it has confirmed since the last call."""
        given_up = self.dropped - self._unmade
        confirmed = self._writer.items_created - self._writer.unconfirmed - given_up
        self.inserted[self._writer.shard] += confirmed - sum(self.inserted)

    def _begin_on(self, shard: int, observation: NDArray[Any]) -> None:
        self._piece_steps = 0
        self._writer.begin(shard, observation, *self._identity)

    def _confirm(self, max_in_flight: int, observation: NDArray[Any] | None) -> bool:
        """Waits until at most `max_in_flight` items are unconfirmed; returns False if it gave up instead."""
        start = began = time.monotonic()
        try:
            while True:
                try:
                    self._writer.flush(max_in_flight, self._patience)
                    self._count_inserted()
                    return True
                except BlockedError as blocked:
                    start = self._count_blocked(start)
                    if self._stop.is_set():
                        return False
                    if self._is_lost(self._probes[self._writer.shard], time.monotonic() - began):
                        logger.warning("gave up on %s for environment %d", blocked, self._identity.env)
                        self._abandon()
                        if observation is not None:
                            self._begin_on(self._healthy_shard(self._writer.shard), observation)
                        return False
        finally:
            self.blocked_seconds += time.monotonic() - start

    def _is_lost(self, probe: ShardProbe, blocked_seconds: float) -> bool:
        """Whether the shard is gone, or this connection to it is, as the machine was that it led to."""
        is_stuck = min(blocked_seconds, probe.admitting_seconds) > GIVE_UP_SECONDS
        return is_stuck or probe.down_seconds > GIVE_UP_SECONDS

    def _count_blocked(self, start: float) -> float:
        """Counts a wait so far, and returns when the rest of it begins."""
        now = time.monotonic()
        self.blocked_seconds += now - start
        self._while_blocked()
        return now

    def _healthy_shard(self, preferred: int) -> int:
        """`preferred` if it answers, else the next one that does; waits for one while none does."""
        start = time.monotonic()
        order = [(preferred + k) % len(self._probes) for k in range(len(self._probes))]
        while not self._stop.is_set():
            for shard in order:
                if self._probes[shard].is_up:
                    return shard
            self._probes[preferred].wait_up(FLUSH_SECONDS)
            start = self._count_blocked(start)
        return preferred
