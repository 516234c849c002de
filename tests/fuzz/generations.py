"""What reads the files of generations: the coordinator's manifests, a role's log of its checkpoints, a process's black box."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from sbrl.generation_log import GenerationLog
from services.coordinator.books import NO_SHARDS, Segment
from services.coordinator.manifests import CheckpointRecord, CorruptManifestError, Manifest, decode, encode, signed
from services.coordinator.snapshots import DIRECTORY, Snapshots

from sbrl.black_box import BlackBox, pack
from sbrl.metrics import CoordinatorMetrics
from sbrl.v1.fleet_pb2 import BeatRequest
from services.coordinator.fleet import Fleet
from services.coordinator.store import Moment, Store
from tests.fuzz.mutations import mutated_bytes, mutated_tree
from tests.fuzz.readers import Reader
from tests.fuzz.target import Target

COUNTERS = {("actor", "env_steps"): 900.0, ("learner", "updates"): 80.0, ("replay", "transitions_inserted.0"): 890.0}


def generation_readers(folder: Path) -> Iterator[Target]:
    """Each input is cut or changed at random, or right in its checksum and wrong in its content."""
    checkpoints = tuple(CheckpointRecord(role, 0, f"{role}-80", 1_000, "ab" * 32) for role in ("learner", "replay"))
    manifest = encode(Manifest(3, 1.5e9, checkpoints, Moment(COUNTERS, [Segment(0, 100, 2.0)], 4, 5)))
    content = json.loads(manifest)["content"]
    yield Reader(
        "generation manifest",
        _either(manifest, content, signed),
        folder / "generation-0000000003.json",
        _go_back_to,
        CorruptManifestError,
    )
    log = {"timeline": 2, "checkpoints": {"3": "checkpoint-80", "4": "checkpoint-90"}}
    yield Reader(
        "generation log",
        _either(json.dumps(log).encode(), log, lambda tree: json.dumps(tree).encode()),
        folder / "generations.json",
        lambda path: _ignore(GenerationLog(path.parent).checkpoints),
    )
    record = [7, {"env_steps": 900.0, "transitions_inserted": 890.0}]
    yield Reader(
        "black box",
        _either(_in_a_slot(record), record, _in_a_slot),
        folder / "actor.bin",
        _report_what_was_counted,
    )


def _either(whole: bytes, tree: Any, encoded: Callable[[Any], bytes]) -> Callable[[random.Random], bytes]:
    def make(chance: random.Random) -> bytes:
        return mutated_bytes(chance, [whole]) if chance.random() < 0.4 else encoded(mutated_tree(chance, [tree]))

    return make


def _in_a_slot(record: Any) -> bytes:
    return pack(1, json.dumps(record).encode())


def _go_back_to(manifest: Path) -> None:
    """What a coordinator does that resumes a run from it."""
    decode(manifest.read_bytes())  # refuses with a reason what the coordinator only warns of
    with tempfile.TemporaryDirectory(dir=manifest.parent) as folder:
        (Path(folder) / DIRECTORY).mkdir()
        shutil.copy(manifest, Path(folder) / DIRECTORY)
        store, metrics = Store(Path(folder) / "state.sqlite"), CoordinatorMetrics(CollectorRegistry())
        snapshots = Snapshots(store, Path(folder), NO_SHARDS, metrics, time.monotonic)
        snapshots.resume(token=1)
        status = Fleet(store, 1000, metrics, snapshots).status()
        status.SerializeToString()
        store.close()


def _report_what_was_counted(path: Path) -> None:
    """What a member does that begins in the place of a process that was killed."""
    box = BlackBox(path)
    if box.found is not None:
        BeatRequest(incarnation=box.found.incarnation, counters=box.found.counters).SerializeToString()
    box.close()


def _ignore(value: Any) -> None:
    """What is read is not used."""
