"""Reads every segment in the log of a shard's checkpoint through Reverb, like a learner after a restart."""

from __future__ import annotations

import shutil
from pathlib import Path

from sbrl.replay.backend import reverb
from sbrl.replay.log_fill import MAX_FILL, LogFill
from sbrl.replay.segment_tables import LOG, make_tables
from sbrl.replay.segments import Segment, SegmentShape
from sbrl.replay.shard_checkpoints import MANIFEST
from sbrl.rpc.ports import free_ports

INFO_SECONDS = 60


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of one shard; None before the first."""
    return max((path.parent for path in folder.glob(f"checkpoint-*/{MANIFEST}")), key=lambda path: path.name, default=None)


def read_log(checkpoint: Path, shape: SegmentShape, scratch: Path) -> list[Segment]:
    """The segments of one complete checkpoint's log, newest first. The checkpoint stays unchanged.

    Args:
        scratch: an empty folder for a copy, which is restored.

    Raises:
        AssertionError: a segment is not read exactly once, or has another shape.
    """
    shutil.copytree(checkpoint, scratch / checkpoint.name, ignore=shutil.ignore_patterns(MANIFEST))
    checkpointer = reverb.platform.checkpointers_lib.DefaultCheckpointer(str(scratch))
    (port,) = free_ports("127.0.0.1", 1)
    server = reverb.Server(
        make_tables(shape, queue_segments=1, log_segments=1), port, checkpointer
    )  # sizes are the stored ones
    segments: list[Segment] = []

    def take(segment: Segment) -> bool:
        segments.append(segment)
        return True

    try:
        client = reverb.Client(f"127.0.0.1:{port}")
        size = client.server_info(timeout=INFO_SECONDS)[LOG].current_size
        fill = LogFill(MAX_FILL - 1, shape, take)
        assert fill.go_on(client, is_cancelled=lambda: False)
    finally:
        server.stop()
        shutil.rmtree(scratch / checkpoint.name)
    assert (len(segments), fill.refused) == (size, 0), f"{len(segments)} of {size} segments were read, {fill.refused} refused"
    return segments
