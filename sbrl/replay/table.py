"""One shard: a Reverb server with one table, its limiter and its checkpoints."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from sbrl.config import Config
from sbrl.errors import RunError
from sbrl.ports import check_port_free
from sbrl.replay.backend import reverb, tf
from sbrl.replay.items import TABLE, ItemShape
from sbrl.sharding import ShardLimits, shard_limits

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"


class ShardInfo(NamedTuple):
    """What a shard's table says of itself; counters include what its checkpoint held."""

    size: int
    inserted: int
    sampled: int
    waited_for_samples_seconds: float  # inserts were blocked: the limiter waited for the learner
    waited_for_inserts_seconds: float  # samples were blocked: the limiter waited for the actors


def make_table(config: Config, shape: ItemShape, shard: int, deterministic: bool = False) -> reverb.Table:
    """The shard's table.

    Args:
        deterministic: the item with the lowest priority is sampled next; `sbrl.replay.deterministic` draws those priorities so
            that this is prioritized sampling, bit-reproducible from a seed.
    """
    limits = shard_limits(config, shard)
    limiter = reverb.rate_limiters.SampleToInsertRatio(
        samples_per_insert=limits.samples_per_insert,
        min_size_to_sample=limits.min_size,
        error_buffer=(limits.min_diff, limits.max_diff),
    )
    if deterministic:
        sampler, limiter = reverb.selectors.MinHeap(), reverb.rate_limiters.MinSize(1)
    elif config.replay.prioritized:
        sampler = reverb.selectors.Prioritized(priority_exponent=1.0)  # the learner applies the exponent
    else:
        sampler = reverb.selectors.Uniform()
    return reverb.Table(
        name=TABLE,
        sampler=sampler,
        remover=reverb.selectors.Fifo(),
        max_size=limits.capacity,
        rate_limiter=limiter,
        signature={name: tf.TensorSpec(dims, dtype, name) for name, (dims, dtype) in shape.columns().items()},
    )


class ShardServer:
    """A Reverb server for one shard, restored from its newest readable checkpoint."""

    def __init__(
        self, config: Config, shape: ItemShape, shard: int, port: int, directory: Path, deterministic: bool = False
    ) -> None:
        """Starts serving.

        Args:
            port: to listen on, on all interfaces (Reverb offers no choice).
            directory: of this shard's checkpoints: `newest` is Reverb's own, which deletes what is older there; `earlier` keeps
                the ones before, as hard links.
            deterministic: see `make_table`.

        Raises:
            RunError: the port is taken, or the directory cannot be written.
        """
        check_port_free("0.0.0.0", port)  # Reverb aborts the process where a port is taken
        self._shard, self._keep = shard, config.replay.keep_checkpoints
        self._deterministic = deterministic
        self._newest, self._earlier = directory / "newest", directory / "earlier"
        try:
            self._newest.mkdir(parents=True, exist_ok=True)
            self._earlier.mkdir(exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot write replay checkpoints to {directory}: {error.strerror}") from None
        self._server = self._restore(config, shape, port)
        self.port = port
        self.client = reverb.Client(f"127.0.0.1:{port}")
        if not deterministic:
            self._check_limits(shard_limits(config, shard))
        at_start = self.info()
        self.restored_size, self._inserted_before, self._sampled_before = at_start.size, at_start.inserted, at_start.sampled

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
        return ShardInfo(
            size=table.current_size,
            inserted=limiter.insert_stats.completed,
            sampled=limiter.sample_stats.completed,
            waited_for_samples_seconds=table.table_worker_time.waiting_for_sampling_ms / 1000,
            waited_for_inserts_seconds=table.table_worker_time.waiting_for_inserts_ms / 1000,
        )

    def served_since_start(self, info: ShardInfo) -> tuple[int, int]:
        """(items inserted, items sampled) by this process: `info` without what its checkpoint held."""
        return info.inserted - self._inserted_before, info.sampled - self._sampled_before

    def checkpoint(self) -> Path:
        """Writes a checkpoint and deletes all but the newest `replay.keep_checkpoints`."""
        for path in complete_checkpoints(self._newest):
            if not (self._earlier / path.name).exists():
                shutil.copytree(path, self._earlier / path.name, copy_function=os.link)
        path = Path(self.client.checkpoint())
        write_manifest(path)
        kept = complete_checkpoints(self._earlier)
        for old in kept[: max(0, len(kept) - self._keep + 1)]:
            shutil.rmtree(old)
        return path

    def stop(self) -> None:
        self._server.stop()

    def _restore(self, config: Config, shape: ItemShape, port: int) -> reverb.Server:
        """Starts on the newest checkpoint; a corrupt one is set aside, said so, and the one before is tried."""
        while True:
            checkpoints = complete_checkpoints(self._newest)
            try:
                if checkpoints:
                    verify_manifest(checkpoints[-1])
                return reverb.Server(
                    tables=[make_table(config, shape, self._shard, self._deterministic)],
                    port=port,
                    checkpointer=reverb.platform.checkpointers_lib.DefaultCheckpointer(str(self._newest)),
                )
            except (RuntimeError, ValueError, OSError) as error:
                if not checkpoints:
                    raise RunError(f"replay shard {self._shard} cannot start on port {port}: {error}") from None
                self._fall_back(checkpoints[-1], error)

    def _fall_back(self, corrupt: Path, error: Exception) -> None:
        """Moves a corrupt checkpoint out of Reverb's way and the one before it, if any, in."""
        corrupt.rename(self._earlier / f"corrupt-{corrupt.name}")
        earlier = complete_checkpoints(self._earlier)
        remedy = f"trying the one before, {earlier[-1].name}" if earlier else "there is none before it: starting empty"
        logger.warning("checkpoint %s is corrupt (%s): set aside in %s; %s", corrupt, error, self._earlier, remedy)
        if earlier:
            earlier[-1].rename(self._newest / earlier[-1].name)

    def _check_limits(self, wanted: ShardLimits) -> None:
        """A restored table keeps the limits of its checkpoint: Reverb ignores the new ones without a word, we refuse.

        Raises:
            RunError: the checkpoint was made with other limits.
        """
        table = self.client.server_info(timeout=30)[TABLE]
        limiter = table.rate_limiter_info
        found = ShardLimits(
            table.max_size, limiter.min_size_to_sample, limiter.samples_per_insert, limiter.min_diff, limiter.max_diff
        )
        different = [
            f"{name} {was:g} -> {now:g}"
            for name, was, now in zip(ShardLimits._fields, found, wanted, strict=True)
            if abs(was - now) > 1e-6 * max(1.0, abs(now))
        ]
        if different:
            self._server.stop()
            raise RunError(
                f"the checkpoint of replay shard {self._shard} was made with other limits ({', '.join(different)}), which "
                f"Reverb would keep: resume with the settings it was made with, or delete {self._newest.parent} to start empty"
            )


def complete_checkpoints(directory: Path) -> list[Path]:
    """The finished checkpoints of a shard, oldest first (Reverb marks them with a DONE file and names them by time)."""
    return sorted(path.parent for path in directory.glob("[!c]*/DONE"))


def write_manifest(checkpoint: Path) -> None:
    """Writes the checksums of a checkpoint's files beside them, atomically."""
    digests = {path.name: _sha256(path) for path in sorted(checkpoint.iterdir())}
    unfinished = checkpoint / f"{MANIFEST}.tmp"
    unfinished.write_text(json.dumps(digests, indent=2), encoding="utf-8")
    unfinished.replace(checkpoint / MANIFEST)


def verify_manifest(checkpoint: Path) -> None:
    """Checks a checkpoint's files against its manifest, for Reverb loads a truncated file without a word, as an empty table.

    Raises:
        ValueError: a file is missing or differs, or the manifest cannot be read.
    """
    try:
        digests = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        different = [name for name, digest in digests.items() if _sha256(checkpoint / name) != digest]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, AttributeError) as error:
        raise ValueError(f"its {MANIFEST} or a file it names cannot be read: {error}") from None
    if different:
        raise ValueError(f"{', '.join(different)} differ from {MANIFEST}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
