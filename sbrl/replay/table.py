"""One shard: a Reverb server with one table, its limiter and its checkpoints."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import NamedTuple

from sbrl.config import Config
from sbrl.errors import RunError
from sbrl.ports import check_port_free
from sbrl.replay.backend import reverb, tf
from sbrl.replay.items import TABLE, ItemShape
from sbrl.replay.shard_checkpoints import Contents, ShardCheckpoints, read_manifest
from sbrl.sharding import limiter_bounds, shard_limits

# A shard starts again where no insertion can be lost by it: none is admitted, or none came for so long.
QUIET_SECONDS, QUIET_PATIENCE_SECONDS = 1.0, 10.0
_POLL_SECONDS = 0.1


class ShardInfo(NamedTuple):
    """What a shard's table says of itself; counters include what its checkpoint held."""

    size: int
    inserted: int
    sampled: int
    owed: float  # samples that the limiter counts as due and not served; negative while the shard fills
    waited_for_samples_seconds: float  # inserts were blocked: the limiter waited for the learner
    waited_for_inserts_seconds: float  # samples were blocked: the limiter waited for the actors


def make_table(config: Config, shape: ItemShape, shard: int, owed: float | None = None) -> reverb.Table:
    """The shard's table, empty.

    Args:
        owed: samples due for what the shard has inserted before, and lost; None: it never had anything.
    """
    limits = shard_limits(config, shard)
    min_diff, max_diff = limits.min_diff, limits.max_diff
    if owed is not None:
        min_diff, max_diff = limiter_bounds(limits, inserted=0, sampled=0, owed=owed)
    # SampleToInsertRatio's own equation, without its check: where the learner is ahead of the books a limiter waits for it.
    limiter = reverb.rate_limiters.RateLimiter(limits.samples_per_insert, limits.min_size, min_diff, max_diff)
    prioritized = reverb.selectors.Prioritized(priority_exponent=1.0)  # the learner applies the exponent
    return reverb.Table(
        name=TABLE,
        sampler=prioritized if config.replay.prioritized else reverb.selectors.Uniform(),
        remover=reverb.selectors.Fifo(),
        max_size=limits.capacity,
        rate_limiter=limiter,
        signature={name: tf.TensorSpec(dims, dtype, name) for name, (dims, dtype) in shape.columns().items()},
    )


class ShardServer:
    """A Reverb server for one shard, restored from its newest readable checkpoint under the config's limits."""

    def __init__(
        self,
        config: Config,
        shape: ItemShape,
        shard: int,
        port: int,
        directory: Path,
        owed: float | None = None,
    ) -> None:
        """Starts serving.

        Args:
            port: to listen on, on all interfaces (Reverb offers no choice).
            directory: of this shard's checkpoints (see `ShardCheckpoints`).
            owed: samples that the limiter is to count as due and not served; None: as its checkpoint did.

        Raises:
            RunError: the port is taken, the directory cannot be read or written, or Reverb refuses to start.
        """
        check_port_free("0.0.0.0", port)  # Reverb aborts the process where a port is taken
        self._config, self._shape, self._shard, self.port = config, shape, shard, port
        self._limits = shard_limits(config, shard)
        try:
            self.checkpoints = ShardCheckpoints(directory)
        except OSError as error:
            raise RunError(f"cannot write replay checkpoints to {directory}: {error.strerror}") from None
        self.checkpoints.warn_of_layout_before()
        self.client = reverb.Client(f"127.0.0.1:{port}")
        self._server = self._open(owed)
        self._zero = self._read_zero()
        at_start = self.info()
        self.restored_size, self._inserted_before, self._sampled_before = at_start.size, at_start.inserted, at_start.sampled
        self._saved: tuple[Path, Contents] | None = None

    def info(self) -> ShardInfo:
        """Reads the table's counters.

        Raises:
            RunError: the server does not answer within 5 s.
        """
        try:
            table = self.client.server_info(timeout=5)[TABLE]
        except (RuntimeError, reverb.errors.DeadlineExceededError) as error:
            raise RunError(f"replay shard {self._shard} does not answer: {error}") from None
        limiter = table.rate_limiter_info
        inserted, sampled = limiter.insert_stats.completed, limiter.sample_stats.completed
        return ShardInfo(
            size=table.current_size,
            inserted=inserted,
            sampled=sampled,
            owed=inserted * self._limits.samples_per_insert - sampled - self._zero,
            waited_for_samples_seconds=table.table_worker_time.waiting_for_sampling_ms / 1000,
            waited_for_inserts_seconds=table.table_worker_time.waiting_for_inserts_ms / 1000,
        )

    def served_since_start(self, info: ShardInfo) -> tuple[int, int]:
        """(items inserted, items sampled) by this process: `info` without what its checkpoint held."""
        return info.inserted - self._inserted_before, info.sampled - self._sampled_before

    def checkpoint(self) -> Path:
        """Writes a checkpoint, unless nothing has changed since the last one, and returns it.

        Raises:
            RunError: the server does not answer.
            RuntimeError: Reverb could not write it.
            ValueError: what Reverb has written is not whole.
            OSError: the file system refuses.
        """
        if self._saved is not None:
            info = self.info()
            path, contents = self._saved
            if (contents.inserted, contents.sampled) == (info.inserted, info.sampled) and path.is_dir():
                return path
        # What one before left unfinished goes first: on a full disk it would take the room that the next one needs.
        self.checkpoints.clear_reverb_folder()
        try:
            path = self.checkpoints.adopt(Path(self.client.checkpoint()), self._zero)
        except Exception:
            with contextlib.suppress(OSError):  # it is tried again before the next one; what went wrong first is what to say
                self.checkpoints.clear_reverb_folder()
            raise
        self._saved = path, read_manifest(path)[1]
        return path

    def inserted_at(self, checkpoint: Path) -> int:
        """Items that this process had inserted when it wrote a checkpoint."""
        return read_manifest(checkpoint)[1].inserted - self._inserted_before

    def wait_quiet(self) -> bool:
        """Waits until the limiter admits no insertion, or none has come for a while; False if neither happens.

        In such a moment a checkpoint has all that was ever confirmed, so that this process may end after it.
        """
        start = since = time.monotonic()
        inserted = self.info().inserted
        while True:
            info, now = self.info(), time.monotonic()
            room = (self._limits.max_diff - self._limits.samples_per_insert * self._limits.min_size) - info.owed
            if info.size >= self._limits.min_size and room < self._limits.samples_per_insert:
                return True
            if info.inserted != inserted:
                inserted, since = info.inserted, now
            elif now - since >= QUIET_SECONDS:
                return True
            if now - start > QUIET_PATIENCE_SECONDS:
                return False
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """Ends the server, which confirms to writers what it had not inserted yet: not for a run that goes on."""
        self._server.stop()

    def _open(self, owed: float | None) -> reverb.Server:
        """Starts on the newest checkpoint that can be used; corrupt ones after it are set aside then, and that is said.

        Raises:
            RunError: the file system refuses, or Reverb does; all checkpoints are left where they are.
        """
        corrupt: list[tuple[Path, Exception]] = []
        try:
            candidates: list[Path | None] = [None, *self.checkpoints.complete()]
            while True:
                checkpoint = candidates.pop()
                try:
                    server = self._serve(checkpoint, owed)
                    break
                except (RuntimeError, ValueError) as error:
                    # One checkpoint whose checksums are right may have been bad when it was written. Where Reverb refuses a
                    # second one, the reason is another.
                    refused_before = any(isinstance(earlier, RuntimeError) for _, earlier in corrupt)
                    if checkpoint is None or (isinstance(error, RuntimeError) and refused_before):
                        raise RunError(f"replay shard {self._shard} cannot start on port {self.port}: {error}") from None
                    corrupt.append((checkpoint, error))
            for path, reason in reversed(corrupt):
                self.checkpoints.set_aside(path, reason)
            self.checkpoints.clear_reverb_folder()
        except OSError as error:
            raise RunError(f"cannot use replay checkpoints in {self.checkpoints.directory}: {error}") from None
        return server

    def _serve(self, checkpoint: Path | None, owed: float | None) -> reverb.Server:
        """Starts on one checkpoint, or with an empty table."""
        self.checkpoints.clear_reverb_folder()
        if checkpoint is not None:
            self.checkpoints.stage(checkpoint, self._limits, owed)
        return reverb.Server(
            tables=[make_table(self._config, self._shape, self._shard, owed)],
            port=self.port,
            checkpointer=reverb.platform.checkpointers_lib.DefaultCheckpointer(str(self.checkpoints.reverb_folder)),
        )

    def _read_zero(self) -> float:
        """What the limiter's `inserts * samples_per_insert - samples` is where nothing is owed."""
        limiter = self.client.server_info(timeout=30)[TABLE].rate_limiter_info
        limits = self._limits
        return float(limiter.min_diff - limits.min_diff + limits.samples_per_insert * limits.min_size)
