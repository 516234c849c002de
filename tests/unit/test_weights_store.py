"""The weights on disk: durable, fenced, and readable after any kill."""

import zlib

import numpy as np
import pytest
from safetensors.numpy import save

from services.coordinator.refusal import Refused
from services.coordinator.store import Store
from services.coordinator.weights_store import WeightsStore


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "state.sqlite")
    yield store
    store.close()


def weights_of(value: int) -> bytes:
    return save({"w": np.full((4, 4), value, np.float32)})


def publish(weights: WeightsStore, value: int, term: int) -> int:
    data = weights_of(value)
    return weights.publish(data, term, updates=value, crc32=zlib.crc32(data)).version


def files(directory):
    return sorted(path.name for path in directory.glob("weights-*"))


def test_newest_version_and_the_one_before_survive_a_restart(tmp_path, store):
    term = store.acquire_term("a learner")
    weights = WeightsStore(tmp_path, store)
    assert [publish(weights, value, term) for value in (1, 2, 3)] == [1, 2, 3]
    assert files(tmp_path) == ["weights-0000000002.safetensors", "weights-0000000003.safetensors"]
    newest = WeightsStore(tmp_path, store).newest
    assert newest is not None
    assert newest.data == weights_of(3)
    assert (newest.record.version, newest.record.updates) == (3, 3)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "deleted"])
def test_damaged_newest_falls_back_and_versions_never_go_back(tmp_path, store, damage):
    term = store.acquire_term("a learner")
    weights = WeightsStore(tmp_path, store)
    publish(weights, 1, term)
    publish(weights, 2, term)
    path = tmp_path / "weights-0000000002.safetensors"
    data = path.read_bytes()
    if damage == "flipped":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "truncated":
        path.write_bytes(data[:10])
    else:
        path.unlink()
    weights = WeightsStore(tmp_path, store)
    assert weights.newest is not None
    assert weights.newest.data == weights_of(1)
    assert publish(weights, 3, term) == 3
    assert files(tmp_path) == ["weights-0000000001.safetensors", "weights-0000000003.safetensors"]


def test_what_a_kill_left_half_written_is_removed(tmp_path, store):
    term = store.acquire_term("a learner")
    publish(WeightsStore(tmp_path, store), 1, term)
    (tmp_path / "weights-0000000002.safetensors").write_bytes(weights_of(2))  # renamed, but not recorded yet
    (tmp_path / "weights-0000000003.safetensors.partial").write_bytes(b"half")
    weights = WeightsStore(tmp_path, store)
    assert files(tmp_path) == ["weights-0000000001.safetensors"]
    assert publish(weights, 5, term) == 2


@pytest.mark.parametrize(
    ("case", "message"), [("stale", "another learner"), ("damaged", "checksum differs"), ("garbage", "no safetensors")]
)
def test_refused_weights_change_nothing(tmp_path, store, case, message):
    term = store.acquire_term("a learner")
    weights = WeightsStore(tmp_path, store)
    publish(weights, 1, term)
    data = b"garbage" * 100 if case == "garbage" else weights_of(2)
    crc32 = zlib.crc32(data) ^ (case == "damaged")
    if case == "stale":
        store.acquire_term("a learner")
    with pytest.raises(Refused, match=message):
        weights.publish(data, term, updates=2, crc32=crc32)
    assert weights.newest is not None
    assert weights.newest.data == weights_of(1)
    assert files(tmp_path) == ["weights-0000000001.safetensors"]
    assert [record.version for record in store.weights()] == [1]


def test_learner_replaced_while_its_file_is_written_is_fenced(tmp_path, store, monkeypatch):
    term = store.acquire_term("a learner")
    weights = WeightsStore(tmp_path, store)
    add = store.add_weights

    def replaced_first(record, previous):
        store.acquire_term("a learner")
        return add(record, previous)

    monkeypatch.setattr(store, "add_weights", replaced_first)
    with pytest.raises(Refused, match="another learner"):
        publish(weights, 1, term)
    assert weights.newest is None
    assert files(tmp_path) == []
