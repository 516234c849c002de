"""What reads a shard's checkpoint before Reverb does: its manifest, the table's settings, and items where some are left out."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from google.protobuf.message import Message
from reverb.cc import schema_pb2
from reverb.cc.checkpointing import checkpoint_pb2
from sbrl.replay.table import ShardServer

from sbrl import config as configs
from sbrl.ports import free_ports
from sbrl.replay.items import ItemShape
from sbrl.replay.segments import Transition
from sbrl.replay.shard_checkpoints import (
    MANIFEST,
    ShardCheckpoints,
    read_manifest,
    read_table,
    size_and_digest,
    write_manifest,
)
from sbrl.replay.writer import EpisodeWriter
from sbrl.sharding import shard_limits
from tests.chaos.reading import records, rewrite
from tests.fuzz.mutations import mutated_bytes, mutated_message
from tests.fuzz.readers import CheckpointReader, changed_file
from tests.fuzz.target import Target
from tests.scripted_episodes import frame_of

SHAPE = ItemShape(1, 1, (2,), np.dtype(np.float32))
STEPS, FEWER = 10, 7  # transitions in the checkpoint, and in a shard whose capacity has shrunk
WRITE_SECONDS = 30.0
RECORDS: dict[str, type[Message]] = {
    "tables.tfrecord": checkpoint_pb2.PriorityTableCheckpoint,
    "items.tfrecord": schema_pb2.PrioritizedItem,
    "chunks.tfrecord": schema_pb2.ChunkData,
}


def shard_readers(folder: Path) -> Iterator[Target]:
    """A checkpoint that Reverb has written, made ready to be loaded again by a shard of a smaller capacity."""
    whole = _checkpoint(folder / "shard")
    contents = read_manifest(whole)[1]
    checkpoints = ShardCheckpoints(whole.parent)
    limits = shard_limits(_config(capacity=FEWER), 0)

    def sign(checkpoint: Path) -> None:
        (checkpoint / MANIFEST).unlink()
        write_manifest(checkpoint, contents)

    def read() -> None:
        checkpoints.go_back_to(whole.name, size_and_digest(whole)[1])
        checkpoints.stage(whole, limits, None)
        table = read_table(checkpoints.reverb_folder / whole.name)
        # What Reverb takes as it is given: it aborts without the first two, and waits for ever where the others are no numbers.
        assert table.sampler.WhichOneof("distribution")
        assert table.remover.WhichOneof("distribution")
        limiter = table.rate_limiter
        assert math.isfinite(limiter.min_diff)
        assert math.isfinite(limiter.max_diff)
        assert 0 <= limiter.insert_count - limiter.delete_count <= table.max_size == FEWER

    forge = _Forger(whole, folder / "forged.tfrecord")
    yield CheckpointReader("shard checkpoint", whole, MANIFEST, sign, read, ValueError, change=forge)


class _Forger:
    """Changes a file's bytes, or what its records say: then only their content is wrong, not their compression or checksums."""

    def __init__(self, checkpoint: Path, scratch: Path) -> None:
        self._records = {name: records(checkpoint / name) for name in RECORDS}
        self._scratch = scratch

    def __call__(self, chance: random.Random, name: str, whole: bytes) -> bytes:
        if name not in RECORDS or chance.random() < 0.3:
            return changed_file(chance, name, whole)
        changed = list(self._records[name])
        at = chance.randrange(len(changed))
        match chance.randrange(8):
            case 0:
                del changed[at]
            case 1:
                changed.insert(at, changed[at])
            case 2 | 3:
                changed[at] = mutated_bytes(chance, changed)
            case _:
                right = RECORDS[name].FromString(changed[at])
                changed[at] = mutated_message(chance, right).SerializeToString()
        rewrite(self._scratch, changed)
        return self._scratch.read_bytes()


def _checkpoint(directory: Path) -> Path:
    """Of a real shard with one episode."""
    (port,) = free_ports("127.0.0.1", 1)
    server = ShardServer(_config(capacity=1000), SHAPE, 0, port, directory)
    writer = EpisodeWriter([f"127.0.0.1:{port}"], SHAPE)
    writer.begin(0, frame_of(1)[None], actor=0, incarnation=1, env=0)
    for t in range(STEPS):
        writer.append(Transition(0, 1.0, t == STEPS - 1, frame_of(t + 2), 1))
    writer.end()
    writer.close_episode(WRITE_SECONDS)
    writer.close()
    checkpoint = server.checkpoint()
    server.stop()
    return checkpoint


def _config(capacity: int) -> configs.Config:
    return configs.load(
        overrides=[
            *("env.id=CartPole-v1", "run.env_steps=1000", "replay.num_shards=1", "replay.min_size=1", "agent.n_step=1"),
            *("agent.n_max=1", "replay.error_buffer=1e9", f"replay.capacity={capacity}"),
        ]
    )
