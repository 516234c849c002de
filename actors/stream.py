"""One environment's stream of transitions, kept going when shards come and go."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from sbrl.replay.probe import ShardProbe
from sbrl.replay.writer import BlockedError, EpisodeWriter, Transition
from sbrl.sharding import episode_shard

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 0.5  # how often a blocked actor looks whether it should stop, or whether the shard is gone
GIVE_UP_SECONDS = 5.0  # a shard that is silent for longer is left for another, with what it had not confirmed


class Identity(NamedTuple):
    """Who writes; kept with every item."""

    actor: int
    incarnation: int
    env: int


class TransitionStream:
    """Writes one environment's episodes, each to one shard; waits while the learner is behind, bounded in memory and time.

    When the shard of an episode is gone for `GIVE_UP_SECONDS`, the rest of the episode goes to a shard that answers, as a piece
    of its own: its first items start from the observation at hand, and no window spans both shards.
    """

    def __init__(
        self,
        writer: EpisodeWriter,
        probes: Sequence[ShardProbe],
        identity: Identity,
        max_in_flight: int,
        stop: threading.Event,
    ) -> None:
        self._writer, self._probes, self._identity = writer, probes, identity
        self._max_in_flight, self._stop = max_in_flight, stop
        self._episode = 0
        self.blocked_seconds = 0.0
        self.dropped = 0

    @property
    def created(self) -> int:
        """Items handed to Reverb: confirmed, dropped or in flight."""
        return self._writer.items_created

    @property
    def in_flight(self) -> int:
        """The most items that can be unconfirmed now."""
        return self._writer.unconfirmed

    def begin(self, observation: NDArray[Any]) -> None:
        """Starts an episode with its first observation, frame_dtype[stack, *frame_shape]."""
        identity = self._identity
        preferred = episode_shard(identity.actor, identity.env, self._episode, len(self._probes))
        self._episode += 1
        self._begin_on(self._healthy_shard(preferred), observation)

    def append(self, transition: Transition, observation: NDArray[Any]) -> None:
        """Writes one step; blocks while too much is unconfirmed.

        Args:
            transition: the step.
            observation: the one it reached, should the stream have to move to another shard.
        """
        self._writer.append(transition)
        self._confirm(self._max_in_flight, observation)

    def end(self) -> None:
        """Writes what completes the episode's last items and waits until all are confirmed."""
        self._writer.end()
        if self._confirm(0, None):
            self._writer.close_episode(FLUSH_SECONDS)

    def close(self) -> None:
        """Gives unconfirmed items one last chance, then drops and counts them."""
        try:
            self._writer.flush(0, FLUSH_SECONDS)
        except BlockedError:
            self.dropped += self._writer.unconfirmed
        self._writer.close()

    def _begin_on(self, shard: int, observation: NDArray[Any]) -> None:
        self._writer.begin(shard, observation, *self._identity)

    def _confirm(self, max_in_flight: int, observation: NDArray[Any] | None) -> bool:
        """Waits until at most `max_in_flight` items are unconfirmed; returns False if it gave up instead."""
        start = time.monotonic()
        try:
            while True:
                try:
                    self._writer.flush(max_in_flight, FLUSH_SECONDS)
                    return True
                except BlockedError as blocked:
                    if self._stop.is_set():
                        return False
                    if self._probes[self._writer.shard].down_seconds > GIVE_UP_SECONDS:
                        logger.warning("gave up on %s for environment %d", blocked, self._identity.env)
                        self.dropped += self._writer.unconfirmed
                        self._writer.abandon()
                        if observation is not None:
                            self._begin_on(self._healthy_shard(self._writer.shard), observation)
                        return False
        finally:
            self.blocked_seconds += time.monotonic() - start

    def _healthy_shard(self, preferred: int) -> int:
        """`preferred` if it answers, else the next one that does; waits for one while none does."""
        order = [(preferred + k) % len(self._probes) for k in range(len(self._probes))]
        while not self._stop.is_set():
            for shard in order:
                if self._probes[shard].is_up:
                    return shard
            self._probes[preferred].wait_up(FLUSH_SECONDS)
        return preferred
