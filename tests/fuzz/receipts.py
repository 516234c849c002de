"""Readers of an ended process's accounts: a learner's receipts and samples trained, and an actor's counts."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from learner.ratio import Ratio, RatioSettings
from sbrl.replay.receipts import WITH_ACTORS, Receipts
from sbrl.replay.segments import Stream
from sbrl.storage.black_box import BlackBox, pack
from sbrl.v1.fleet_pb2 import HeartbeatRequest, ShardProgress
from tests.fuzz.mutations import mutated_bytes, mutated_tree
from tests.fuzz.readers import Reader, receipts
from tests.fuzz.target import Target

SETTINGS = RatioSettings(min_size=10, samples_per_insert=2.0, batch_size=8, ahead=64.0)


def receipt_readers(folder: Path) -> Iterator[Target]:
    """Each input is cut or changed at random."""
    state = receipts().state()
    yield Reader("receipts", _json(state), folder / "receipts.json", _go_on_receiving, ValueError)
    ratio = Ratio(SETTINGS, received=100, due=180.0, trained=176).state()
    yield Reader("ratio", _json(ratio), folder / "ratio.json", _go_on_training, ValueError)
    record = [7, {"env_steps": 900.0, "transitions_inserted": 890.0}]
    yield Reader(
        "black box",
        _either(_in_a_slot(record), record, _in_a_slot),
        folder / "actor.bin",
        _report_what_was_counted,
    )


def _json(tree: Any) -> Callable[[random.Random], bytes]:
    return _either(json.dumps(tree).encode(), tree, lambda changed: json.dumps(changed).encode())


def _either(whole: bytes, tree: Any, encoded: Callable[[Any], bytes]) -> Callable[[random.Random], bytes]:
    def make(chance: random.Random) -> bytes:
        return mutated_bytes(chance, [whole]) if chance.random() < 0.4 else encoded(mutated_tree(chance, [tree]))

    return make


def _in_a_slot(record: Any) -> bytes:
    return pack(1, json.dumps(record).encode())


def _go_on_receiving(path: Path) -> None:
    """Does what a learner does when it resumes with them: counts, reports and saves."""
    receipts = Receipts.from_state(json.loads(path.read_bytes()), max_writers=3)
    for incarnation in (1, 2, 4):
        receipts.take(0, Stream(0, incarnation, 0, 1), 128, 32)
        receipts.settle(incarnation, 300)
    for shard in (0, 1, 2, WITH_ACTORS):
        counts = receipts.of_shard(shard)
        ShardProgress(**counts._asdict())
        assert counts.recovered <= counts.lost
    assert Receipts.from_state(json.loads(json.dumps(receipts.state())), max_writers=3).state() == receipts.state()


def _go_on_training(path: Path) -> None:
    ratio = Ratio.restored(SETTINGS, json.loads(path.read_bytes()))
    ratio.receive(32)
    assert ratio.trained >= 0
    assert ratio.received >= 0
    assert ratio.updates_due >= 0
    assert ratio.may_receive in (True, False)


def _report_what_was_counted(path: Path) -> None:
    """Does what the successor of a killed process does."""
    box = BlackBox(path)
    if box.found is not None:
        HeartbeatRequest(incarnation=box.found.incarnation, counters=box.found.counters).SerializeToString()
    box.close()
