"""Learner checkpoints: a run goes on from one as if it had never stopped, and never from half of one."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from learner.checkpoint import CheckpointStore, load
from learner.records import Batch, LearnerState, capture_random, restore_random
from learner.update import UpdateStep, make_update_step
from sbrl import config
from sbrl.checkpoints import CorruptCheckpointError, find_checkpoint, read_checkpoint_file
from sbrl.envs.spec import EnvSpec
from sbrl.errors import RunError
from sbrl.networks.serialization import decode

SPEC = EnvSpec(2, (36, 36), np.dtype(np.uint8), 4, "frames", True)
CONFIG = config.build({"agent": {"hidden_size": 16, "num_quantiles": 5}, "learner": {"target_update_period": 3}})


def train(step: UpdateStep, generator: np.random.Generator, updates: int) -> list[float]:
    losses = []
    for _ in range(updates):
        observations = torch.from_numpy(generator.integers(0, 256, size=(2, 4, 4, 36, 36)).astype(np.uint8))
        rewards = torch.from_numpy(generator.normal(size=4).astype(np.float32)) + torch.rand(4)
        actions = torch.from_numpy(generator.integers(2, size=4))
        batch = Batch(observations[0], actions, rewards, torch.full((4,), 0.9), observations[1], torch.ones(4).double())
        losses.append(step.update(batch).loss.item())
    return losses


def state_of(step: UpdateStep) -> LearnerState:
    return LearnerState(step.state(), counters={"samples_trained": 4 * step.updates}, random=capture_random())


def save_after_each_update(store: CheckpointStore, updates: int) -> UpdateStep:
    step, generator = make_update_step(CONFIG, SPEC), np.random.default_rng(0)
    for _ in range(updates):
        train(step, generator, 1)
        store.save(state_of(step))
    return step


def test_a_restored_learner_goes_on_bit_for_bit(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "learner", keep=3)
    step, generator = make_update_step(CONFIG, SPEC), np.random.default_rng(7)
    train(step, generator, 4)
    store.save(LearnerState(step.state(), {"samples_trained": 16, "epoch": 2}, capture_random(batches=generator)))
    expected = train(step, generator, 4)

    other_seed = config.build(CONFIG.model_dump(), {"run": {"seed": 9}})
    resumed, resumed_generator = make_update_step(other_seed, SPEC), np.random.default_rng(8)
    state = store.load_newest()
    assert state is not None
    assert state.counters == {"samples_trained": 16, "epoch": 2}
    resumed.restore(state.update)
    restore_random(state.random, batches=resumed_generator)
    assert resumed.updates == 4
    assert train(resumed, resumed_generator, 4) == expected
    for ours, theirs in zip(step.state()[:3], resumed.state()[:3], strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_nothing_saved_yet(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "absent", keep=1).load_newest() is None


def test_keeps_the_newest(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    save_after_each_update(store, 4)
    assert [path.name for path in store.checkpoints()] == ["updates-000000000003", "updates-000000000004"]


@pytest.mark.parametrize(
    "file", ["online.safetensors", "target.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
)
@pytest.mark.parametrize("damage", ["bit", "cut", "gone"])
def test_falls_back_past_a_corrupt_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, damage: str) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    save_after_each_update(store, 2)
    victim = store.checkpoints()[-1] / file
    data = victim.read_bytes()
    if damage == "gone":
        victim.unlink()
    else:
        victim.write_bytes(data[: len(data) // 2] if damage == "cut" else bytes([data[0] ^ 1]) + data[1:])
    with caplog.at_level(logging.WARNING):
        state = store.load_newest()
    assert state is not None
    assert state.update.updates == 1
    assert "updates-000000000002" in caplog.text


def test_saving_after_a_fall_back_replaces_what_could_not_be_read(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    step = save_after_each_update(store, 2)
    later = store.checkpoints()[-1].rename(tmp_path / "updates-000000000009")
    (later / "state.json").unlink()
    store.save(state_of(step))
    assert [path.name for path in store.checkpoints()] == ["updates-000000000002"]
    (store.checkpoints()[0] / "state.json").unlink()
    store.save(state_of(step))
    state = store.load_newest()
    assert state is not None
    assert state.update.updates == 2


def test_all_corrupt(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    save_after_each_update(store, 2)
    for path in store.checkpoints():
        (path / "online.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match="none of the 2 checkpoints"):
        store.load_newest()


def test_half_written_checkpoints_are_ignored_and_removed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    half = tmp_path / ".writing-1"
    half.mkdir()
    (half / "online.safetensors").write_bytes(b"half")
    assert store.load_newest() is None
    save_after_each_update(store, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["updates-000000000001"]


def test_no_permission_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    step = make_update_step(CONFIG, SPEC)
    with pytest.raises(RunError, match="cannot write checkpoint"):
        CheckpointStore(tmp_path / "file" / "learner", keep=1).save(state_of(step))


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    save_after_each_update(store, 1)
    state = store.load_newest()
    assert state is not None
    larger = make_update_step(config.build(CONFIG.model_dump(), {"agent": {"num_quantiles": 6}}), SPEC)
    with pytest.raises(
        RunError, match=r"checkpoint's online weights do not fit .* head.bias is \(10,\), the network has \(12,\)"
    ):
        larger.restore(state.update)


def test_one_file_of_one_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    step = save_after_each_update(store, 2)
    checkpoint = find_checkpoint(tmp_path, updates=2)
    online = decode(read_checkpoint_file(checkpoint, "online.safetensors"))
    assert all(torch.equal(online[name], tensor) for name, tensor in step.state().online.items())
    assert load(checkpoint).update.updates == 2
    with pytest.raises(RunError, match="no checkpoint of update 5; it has: 1, 2"):
        find_checkpoint(tmp_path, updates=5)
    manifest = checkpoint / "manifest.json"
    manifest.write_text(json.dumps([]))
    with pytest.raises(CorruptCheckpointError, match=r"manifest.json is damaged"):
        load(checkpoint)
