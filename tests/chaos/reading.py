"""Every item that a shard's checkpoint holds, each once, read back by Reverb itself."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from reverb.cc import schema_pb2
from reverb.cc.checkpointing import checkpoint_pb2

from sbrl.ports import free_ports
from sbrl.replay.backend import reverb, tf
from sbrl.replay.items import TABLE, Items, ItemShape

TABLES, ITEMS = "tables.tfrecord", "items.tfrecord"  # Reverb's: each table's settings and counters; what refers to the data


def newest_checkpoint(folder: Path) -> Path | None:
    """Of one shard; None before the first."""
    return max((path.parent for path in folder.glob("**/[0-9]*/manifest.json")), key=lambda path: path.name, default=None)


def read_items(checkpoint: Path, shape: ItemShape, shard: int, scratch: Path) -> Items:
    """The items of one complete checkpoint, oldest first.

    A copy is restored whose table gives out each item once, in order, whatever its limiter's books: what is read is read by the
    server that wrote it.

    Args:
        scratch: an empty folder for the copy.
    """
    copy = scratch / checkpoint.name
    shutil.copytree(checkpoint, copy)
    give_each_item_once(copy / TABLES)
    forget_samples(copy / ITEMS)
    signature = {name: tf.TensorSpec(dims, dtype, name) for name, (dims, dtype) in shape.columns().items()}
    table = reverb.Table.queue(TABLE, max_size=2**31 - 1, signature=signature)
    (port,) = free_ports("127.0.0.1", 1)
    server = reverb.Server([table], port, reverb.platform.checkpointers_lib.DefaultCheckpointer(str(scratch)))
    try:
        client = reverb.Client(f"127.0.0.1:{port}")
        size = client.server_info(timeout=60)[TABLE].current_size
        samples = list(client.sample(TABLE, size, emit_timesteps=False, unpack_as_table_signature=True)) if size else []
    finally:
        server.stop()
        shutil.rmtree(copy)
    columns = {
        name: np.array([sample.data[name] for sample in samples], dtype).reshape(len(samples), *dims)
        for name, (dims, dtype) in shape.columns().items()
    }
    return Items.from_columns(
        columns,
        key=np.array([sample.info.key for sample in samples], np.uint64),
        probability=np.ones(len(samples)),
        table_size=size,
        shard=shard,
    )


def give_each_item_once(tables: Path) -> None:
    """Changes the stored table into one that gives its items out in order, takes each away with it, and never blocks."""
    (record,) = records(tables)
    table = checkpoint_pb2.PriorityTableCheckpoint.FromString(record)
    assert table.table_name == TABLE
    table.sampler.Clear()
    table.sampler.fifo = True
    table.sampler.is_deterministic = True
    table.max_times_sampled = 1
    limiter = table.rate_limiter
    limiter.samples_per_insert, limiter.min_size_to_sample = 1.0, 1
    limiter.min_diff, limiter.max_diff = -sys.float_info.max, sys.float_info.max
    rewrite(tables, [table.SerializeToString()])


def forget_samples(items: Path) -> None:
    """Makes every item one that was never sampled: one that was is not taken away by its first sample here."""
    changed = []
    for record in records(items):
        item = schema_pb2.PrioritizedItem.FromString(record)
        item.times_sampled = 0
        changed.append(item.SerializeToString())
    rewrite(items, changed)


def records(path: Path) -> list[bytes]:
    return list(tf.data.TFRecordDataset(str(path), compression_type="ZLIB").as_numpy_iterator())


def rewrite(path: Path, changed: list[bytes]) -> None:
    with tf.io.TFRecordWriter(str(path), options="ZLIB") as writer:
        for record in changed:
            writer.write(record)
