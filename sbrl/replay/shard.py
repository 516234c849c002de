"""One shard: a Reverb server with its tables and its checkpoints."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

from sbrl.config import SEGMENT_STEPS, Config
from sbrl.envs.spec import EnvSpec
from sbrl.errors import RunError, UsageError
from sbrl.replay.backend import reverb
from sbrl.replay.items import TABLE, ItemShape
from sbrl.replay.segment_tables import LOG, QUEUE, log_segments, make_tables, transitions_table
from sbrl.replay.segments import SegmentShape
from sbrl.replay.shard_checkpoints import ShardCheckpoints, leave_pages
from sbrl.rpc.ports import check_port_free
from sbrl.storage.atomic import replace_text

QUEUE_SEGMENTS = 2  # segments that may wait for the learner; if the queue is full, actors wait. More would only be staler


class ShardInfo(NamedTuple):
    """State and counters of a shard's tables. Counts begin with this process."""

    inserted: int  # segments
    served: int  # segments, to the learner
    sampled: int  # transitions, with remote sampling
    log_segments: int
    queue_segments: int
    transitions: int  # that Reverb can sample, else an upper bound for the log: segments at a stream's end hold fewer
    waited_for_learner_seconds: float
    waited_for_actors_seconds: float


class ShardServer:
    """A Reverb server for one shard, restored from its newest readable checkpoint.

    A restored log keeps its original capacity: Reverb takes it from the checkpoint.
    """

    def __init__(self, config: Config, spec: EnvSpec, shard: int, sampling: str, port: int, directory: Path) -> None:
        """Starts serving.

        Args:
            sampling: cached or remote. With remote there is a third table, from which the learner samples.
            port: to listen on, on all interfaces (Reverb offers no choice).
            directory: folder of this shard's checkpoints (see `ShardCheckpoints`).

        Raises:
            RunError: the port is taken, the directory cannot be read or written, or Reverb refuses to start.
            UsageError: the shard was made for the other kind of sampling.
        """
        check_port_free("0.0.0.0", port)  # Reverb aborts the process if the port is taken
        self._shard, self.port = shard, port
        shape = SegmentShape.of(spec, config.agent.stored_steps)
        self._shape = shape if sampling == "cached" else shape.without_frames()
        self._items = None if sampling == "cached" else ItemShape.of_segments(shape)
        self._capacity = share(config.replay.capacity, config.replay.num_shards, shard)
        self._prioritized = config.replay.prioritized
        try:
            self.checkpoints = ShardCheckpoints(directory)
            self._keep_sampling(sampling)
        except OSError as error:
            raise RunError(f"cannot write replay checkpoints to {directory}: {error.strerror}") from None
        self.client = reverb.Client(f"127.0.0.1:{port}")
        self._server = self._open()
        tables = self._ask(timeout=30)
        self.log_capacity, self.queue_capacity = tables[LOG].max_size, tables[QUEUE].max_size
        self.capacity = tables[TABLE].max_size if TABLE in tables else self.log_capacity * SEGMENT_STEPS  # transitions
        self.restored_segments: int = tables[LOG].current_size
        self._inserted_before = tables[LOG].rate_limiter_info.insert_stats.completed
        self._served_before = tables[QUEUE].rate_limiter_info.sample_stats.completed
        self._sampled_before = _sampled(tables)
        self._saved: tuple[Path, tuple[int, ...]] | None = None

    def info(self) -> ShardInfo:
        """Reads the tables' counters.

        Raises:
            RunError: the server does not answer within 5 s.
        """
        tables = self._ask(timeout=5)
        log, waiting = tables[LOG], tables[QUEUE]
        return ShardInfo(
            inserted=log.rate_limiter_info.insert_stats.completed - self._inserted_before,
            served=waiting.rate_limiter_info.sample_stats.completed - self._served_before,
            sampled=_sampled(tables) - self._sampled_before,
            log_segments=log.current_size,
            queue_segments=waiting.current_size,
            transitions=tables[TABLE].current_size if TABLE in tables else log.current_size * SEGMENT_STEPS,
            waited_for_learner_seconds=waiting.table_worker_time.waiting_for_sampling_ms / 1000,
            waited_for_actors_seconds=waiting.table_worker_time.waiting_for_inserts_ms / 1000,
        )

    def checkpoint(self) -> Path:
        """Writes a checkpoint, unless nothing has changed since the last one, and returns it.

        Raises:
            RunError: the server does not answer.
            RuntimeError: Reverb could not write it.
            ValueError: the files that Reverb has written are incomplete.
            OSError: the file system refuses.
        """
        info = self.info()
        counts = info.inserted, info.served, info.sampled
        if self._saved is not None and self._saved[1] == counts and self._saved[0].is_dir():
            return self._saved[0]
        # Unfinished files of an earlier checkpoint go first: on a full disk they would take the space that this one needs.
        self.checkpoints.clear_reverb_folder()
        try:
            path = self.checkpoints.adopt(Path(self.client.checkpoint()))
        except Exception:
            with contextlib.suppress(OSError):  # the next checkpoint tries it again; report the first error
                self.checkpoints.clear_reverb_folder()
            raise
        self._saved = path, counts
        return path

    def stop(self) -> None:
        """Ends the server. It then confirms items that it has not inserted, so do not call this while a run continues."""
        self._server.stop()

    def _ask(self, timeout: int) -> dict[str, reverb.TableInfo]:
        try:
            tables: dict[str, reverb.TableInfo] = self.client.server_info(timeout=timeout)
        except (RuntimeError, reverb.errors.DeadlineExceededError) as error:
            raise RunError(f"replay shard {self._shard} does not answer: {error}") from None
        return tables

    def _open(self) -> reverb.Server:
        """Starts on the newest usable checkpoint, then sets newer, corrupt ones aside and logs them.

        Raises:
            RunError: the file system or Reverb refuses. All checkpoints stay where they are.
        """
        corrupt: list[tuple[Path, Exception]] = []
        try:
            candidates: list[Path | None] = [None, *self.checkpoints.complete()]
            while True:
                checkpoint = candidates.pop()
                try:
                    server = self._serve(checkpoint)
                    break
                except (RuntimeError, ValueError) as error:
                    # One checkpoint with correct checksums may have been written badly. If Reverb refuses a second one,
                    # there must be another reason.
                    refused_before = any(isinstance(earlier, RuntimeError) for _, earlier in corrupt)
                    if checkpoint is None or (isinstance(error, RuntimeError) and refused_before):
                        raise RunError(f"replay shard {self._shard} cannot start on port {self.port}: {error}") from None
                    corrupt.append((checkpoint, error))
            for path, reason in reversed(corrupt):
                self.checkpoints.set_aside(path, reason)
            self.checkpoints.clear_reverb_folder()
            if checkpoint is not None:
                leave_pages(checkpoint)
        except OSError as error:
            raise RunError(f"cannot use replay checkpoints in {self.checkpoints.directory}: {error}") from None
        return server

    def _keep_sampling(self, sampling: str) -> None:
        """Refuses to start on data of the other kind of sampling: Reverb would find it corrupt, or useless."""
        file = self.checkpoints.directory / "sampling"
        before = file.read_text(encoding="utf-8").strip() if file.exists() else ""
        if before and before != sampling:
            raise UsageError(
                f"replay.sampling is {sampling}, but {self.checkpoints.directory} is of a run with {before} sampling: set "
                f"it to {before}, or start a new run"
            )
        replace_text(file, f"{sampling}\n")

    def _tables(self) -> list[reverb.Table]:
        tables = make_tables(self._shape, QUEUE_SEGMENTS, log_segments(self._capacity, self._shape))
        if self._items is not None:
            tables.append(transitions_table(self._items, self._capacity, self._prioritized))
        return tables

    def _serve(self, checkpoint: Path | None) -> reverb.Server:
        """Starts on one checkpoint, or with empty tables."""
        self.checkpoints.clear_reverb_folder()
        if checkpoint is not None:
            self.checkpoints.stage(checkpoint)
        return reverb.Server(
            tables=self._tables(),
            port=self.port,
            checkpointer=reverb.platform.checkpointers_lib.DefaultCheckpointer(str(self.checkpoints.reverb_folder)),
        )


def share(total: int, num_shards: int, shard: int) -> int:
    """The share of `total` that `shard` (from 0) gets. The shares of all shards add up to `total`."""
    return total // num_shards + (shard < total % num_shards)


def _sampled(tables: dict[str, reverb.TableInfo]) -> int:
    """Number of transitions that the learner has sampled; 0 without a table of them."""
    return tables[TABLE].rate_limiter_info.sample_stats.completed if TABLE in tables else 0
