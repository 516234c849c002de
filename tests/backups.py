"""A small run directory as roles leave it, for tests of backups; no role is started."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path

from sbrl.backup import __main__ as making
from sbrl.backup import restore
from sbrl.storage.checkpoints import write_checkpoint
from sbrl.storage.run_directory import RunDirectory
from services.coordinator.store import LeaseRecord, Store, WeightsRecord

WEIGHTS = b"weights of version 2"


def make_run(path: Path, run_id: str = "pong-1", shards: int = 2) -> RunDirectory:
    """Makes two checkpoints of the learner and of each shard, a lease and a version of weights."""
    run = RunDirectory(path)
    run.coordinator.mkdir(parents=True)
    run.config.write_text(f"metadata: {{run_id: {run_id}}}\n", encoding="utf-8")
    (path / "counts").mkdir()
    (path / "counts/actor-0.bin").write_bytes(b"counted")
    for updates in (100, 200):
        write_checkpoint(run.learner_checkpoints, updates, {"state.json": f"{updates}".encode()})
    for shard in range(shards):
        for number in (1, 2):
            write_shard_checkpoint(run.replay_checkpoints(shard), number)
        (run.replay_checkpoints(shard) / "sampling").write_text("cached\n", encoding="utf-8")
    store = Store(run.coordinator / "state.sqlite")
    store.add_lease(lease("actor-0", seen_time=1000.0), None)
    store.update_lease(1, {"env_steps": 500.0}, 600, 1000.0, ended=False)
    store.acquire_term("learner")
    (run.coordinator / "weights-0000000002.safetensors").write_bytes(WEIGHTS)
    store.add_weights(WeightsRecord(2, 1, 200, len(WEIGHTS), zlib.crc32(WEIGHTS), 1000.0), 0)
    store.close()
    return run


def write_shard_checkpoint(folder: Path, number: int) -> Path:
    checkpoint = folder / f"checkpoint-{number:012d}"
    checkpoint.mkdir(parents=True)
    files = {"tables.tfrecord": b"tables", "items.tfrecord": str(number).encode(), "DONE": b""}
    for name, data in files.items():
        (checkpoint / name).write_bytes(data)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    (checkpoint / "manifest.json").write_text(json.dumps({"sha256": digests}), encoding="utf-8")
    return checkpoint


def lease(name: str, seen_time: float) -> LeaseRecord:
    return LeaseRecord(0, "actor", name, 0, 1000.0, "", "", 1, seen_time, 0, False, 0, "")


def leases(run: RunDirectory) -> list[tuple[int, float]]:
    """(ended, seen_time) of each."""
    with closing(sqlite3.connect(run.coordinator / "state.sqlite")) as connection:
        return connection.execute("SELECT ended, seen_time FROM leases").fetchall()


def contents(path: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def back_up(run: RunDirectory, to: Path, *arguments: str) -> None:
    making.main([str(run.path), str(to), *arguments])


def bring_back(source: Path, target: Path, *arguments: str) -> None:
    restore.main([str(source), str(target), *arguments])
