"""Checks of a shard's checkpoint before Reverb reads it: its manifest, and the integrity of Reverb's files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sbrl.replay.backend import reverb
from sbrl.replay.segment_tables import make_tables
from sbrl.replay.segment_writer import SegmentWriter
from sbrl.replay.segments import SegmentShape, Stream, StreamRows, Transition
from sbrl.replay.shard_checkpoints import MANIFEST, ShardCheckpoints
from sbrl.rpc.ports import free_ports
from tests.fuzz.readers import CheckpointReader
from tests.fuzz.target import Target
from tests.scripted_episodes import frame_of

SHAPE = SegmentShape(1, 1, (2,), np.dtype(np.float32), steps=4)
STEPS = 10
WRITE_SECONDS = 30.0


def shard_readers(folder: Path) -> Iterator[Target]:
    """A checkpoint that Reverb has written, prepared for loading."""
    checkpoints = ShardCheckpoints(folder / "shard")
    whole = checkpoints.adopt(_written(folder / "reverb"))

    def sign(checkpoint: Path) -> None:
        """As if Reverb had just written it: checks it once more, and writes its checksums."""
        scratch = ShardCheckpoints(folder / "signed")
        copy = scratch.reverb_folder / "written"
        shutil.copytree(checkpoint, copy, ignore=shutil.ignore_patterns(MANIFEST))
        adopted = scratch.adopt(copy)
        shutil.copyfile(adopted / MANIFEST, checkpoint / MANIFEST)
        scratch.prune(0)

    yield CheckpointReader("shard checkpoint", whole, MANIFEST, sign, lambda: checkpoints.stage(whole), ValueError)


def _written(folder: Path) -> Path:
    """A checkpoint of a real shard with one episode."""
    (port,) = free_ports("127.0.0.1", 1)
    checkpointer = reverb.platform.checkpointers_lib.DefaultCheckpointer(str(folder))
    server = reverb.Server(make_tables(SHAPE, queue_segments=16, log_segments=100), port, checkpointer)
    address = f"127.0.0.1:{port}"
    writer = SegmentWriter([address], SHAPE, age=lambda: 0)
    writer.open(0, Stream(0, 1, 0, 0))
    rows = StreamRows(SHAPE, writer)
    rows.begin(frame_of(1)[None])
    for t in range(STEPS):
        rows.append(Transition(0, 1.0, t == STEPS - 1, frame_of(t + 2), 1))
    rows.end()
    rows.fill()
    assert writer.flush(0, WRITE_SECONDS)
    writer.close()
    checkpoint = Path(reverb.Client(address).checkpoint())
    server.stop()
    return checkpoint
