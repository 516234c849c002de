"""Writes one environment's episodes to the shards, each frame once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbrl.replay.backend import reverb
from sbrl.replay.items import PADDING, TABLE, ItemShape
from sbrl.replay.segments import Transition

FRAME_CHUNK = 4  # frames compressed together: 2.3 times smaller than one by one, and little is unpacked for nothing
STEP_CHUNK = 8  # rows of the small columns sent together


class BlockedError(Exception):
    """The shard did not confirm items within the time limit: its limiter waits for the learner, or it is gone."""


class EpisodeWriter:
    """One environment's stream of items to one shard at a time.

    `begin` an episode, `append` every step, `end` it; `flush` bounds what is unconfirmed. An episode goes to one shard from
    its beginning to its end. Items still unconfirmed when `abandon` is called may or may not have been inserted.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        shape: ItemShape,
        initial_priority: Callable[[int, int], float] = lambda env, step: 1.0,
    ) -> None:
        """Makes no connection; the first `begin` on a shard does.

        Args:
            addresses: host:port of each shard, in order.
            shape: of the items to write.
            initial_priority: (env, step) -> priority of a new item.
        """
        self._addresses = addresses
        self._shape = shape
        self._initial_priority = initial_priority
        self._writers: dict[int, Any] = {}
        self._writer: Any = None
        self._shard = -1
        self._meta = np.zeros(5, np.int64)
        self._frame: NDArray[Any] = np.zeros(shape.frame_shape, shape.frame_dtype)
        self._rows = 0  # since begin, without the stack's context
        self._steps = 0  # rows ever written, without context
        self._unconfirmed = 0
        self._unmade = 0
        self.items_created = 0

    @property
    def shard(self) -> int:
        """The shard of the current episode; -1 before the first."""
        return self._shard

    def begin(self, shard: int, observation: NDArray[Any], actor: int, incarnation: int, env: int) -> None:
        """Starts an episode, or what is left of one, on `shard`.

        Args:
            shard: where all its items go.
            observation: frame_dtype[stack, *frame_shape], the first one.
            actor, incarnation, env: who writes, kept with every item.
        """
        if shard not in self._writers:
            self._writers[shard] = self._connect(shard)
        self._shard, self._writer = shard, self._writers[shard]
        self._meta = np.array([actor, incarnation, env, 0, 0], np.int64)
        self._rows = self._unmade = 0
        for frame in observation[:-1]:
            self._append_row(frame, PADDING, 0.0, 1.0)
        self._frame = observation[-1]

    def append(self, transition: Transition) -> None:
        """Writes one step, and the item that it completes, if any."""
        self._meta[3] = self._steps
        self._meta[4] = transition.weights_version
        self._append_row(self._frame, transition.action, transition.reward, 0.0 if transition.terminal else 1.0)
        self._count_row()
        self._unmade += 1
        self._frame = transition.frame
        if self._rows > self._shape.n_max:
            self._create_item()

    def end(self) -> None:
        """Writes the last observation and the padding, so that every step of the episode becomes an item."""
        zeros = np.zeros_like(self._frame)
        for k in range(self._shape.n_max):
            self._append_row(self._frame if k == 0 else zeros, PADDING, 0.0, 0.0)
            self._count_row()
            if self._rows > self._shape.n_max:
                self._create_item()

    def flush(self, max_in_flight: int, timeout_seconds: float) -> None:
        """Waits until at most `max_in_flight` items of this episode's shard are unconfirmed.

        Raises:
            BlockedError: not within the time limit. Nothing is lost: call again, or `abandon`.
        """
        if self._writer is None:
            return
        try:
            self._writer.flush(block_until_num_items=max_in_flight, timeout_ms=max(1, int(timeout_seconds * 1000)))
        except reverb.errors.DeadlineExceededError as error:
            raise BlockedError(f"shard {self._shard} at {self._addresses[self._shard]}") from error
        self._unconfirmed = min(self._unconfirmed, max_in_flight)

    @property
    def unconfirmed(self) -> int:
        """The most items of the current shard that can be unconfirmed (Reverb does not say how many are)."""
        return self._unconfirmed

    @property
    def unmade(self) -> int:
        """Steps of the current episode that have no item of their own yet: the last n_max, at most; after `end`, none."""
        return self._unmade

    def close_episode(self, timeout_seconds: float) -> None:
        """Confirms all items and forgets the history, so that nothing of this episode can reach the next.

        Raises:
            BlockedError: not within the time limit; the call may be repeated.
        """
        if self._writer is None:
            return
        self.flush(0, timeout_seconds)
        self._writer.end_episode(clear_buffers=True, timeout_ms=max(1, int(timeout_seconds * 1000)))

    def abandon(self) -> None:
        """Drops the stream to the current shard with what is unconfirmed; `begin` makes a new one."""
        writer = self._writers.pop(self._shard, None)
        self._writer = None
        self._unconfirmed = self._unmade = 0
        if writer is not None:
            close_writer(writer)

    def close(self) -> None:
        """Closes all streams; unconfirmed items are dropped."""
        for writer in self._writers.values():
            close_writer(writer)
        self._writers.clear()
        self._writer = None
        self._unconfirmed = self._unmade = 0

    def _count_row(self) -> None:
        self._rows += 1
        self._steps += 1

    def _connect(self, shard: int) -> Any:
        keep = self._shape.num_frames + max(FRAME_CHUNK, STEP_CHUNK)
        # Validation would fetch the table's signature with no time limit; ItemShape is the same on both sides.
        writer = reverb.Client(self._addresses[shard]).trajectory_writer(num_keep_alive_refs=keep, validate_items=False)
        writer.configure(("frame",), num_keep_alive_refs=keep, max_chunk_length=FRAME_CHUNK)
        for column in ("action", "reward", "discount", "meta"):
            writer.configure((column,), num_keep_alive_refs=keep, max_chunk_length=STEP_CHUNK)
        return writer

    def _append_row(self, frame: NDArray[Any], action: int, reward: float, discount: float) -> None:
        self._writer.append(
            {
                "frame": frame,
                "action": np.int32(action),
                "reward": np.float32(reward),
                "discount": np.float32(discount),
                "meta": self._meta.copy(),
            }
        )

    def _create_item(self) -> None:
        history, n_max = self._writer.history, self._shape.n_max
        steps = slice(-n_max - 1, -1)
        self._writer.create_item(
            table=TABLE,
            priority=self._initial_priority(int(self._meta[2]), self._steps - n_max - 1),
            trajectory={
                "frame": history["frame"][-self._shape.num_frames :],
                "action": history["action"][steps],
                "reward": history["reward"][steps],
                "discount": history["discount"][steps],
                "meta": history["meta"][-n_max - 1 : -n_max],
            },
        )
        self._unconfirmed += 1
        self._unmade -= 1
        self.items_created += 1


def close_writer(writer: Any) -> None:
    """Closes a stream, whatever is on its way, at once.

    Reverb's close alone can hang for ever: its worker, about to wait until the chunks of the next item are complete, does not
    look whether it has been closed meanwhile. A flush completes all chunks, so that it has nothing to wait for.
    """
    # What does not get through within the time, or cannot at all, is what the caller wants dropped.
    with contextlib.suppress(reverb.errors.DeadlineExceededError, RuntimeError):
        writer.flush(timeout_ms=1)
    writer.close()
