"""Learner checkpoints: a run resumes from one as if it had never stopped, and never from a partial one."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learner.algorithm.update import UpdateStep, make_update_step
from learner.checkpoint import CheckpointStore, SavedLearner, capture_random, load, restore_random
from learner.records import Batch, Sequence
from learner.replay import Replay
from sbrl import config
from sbrl.envs.spec import EnvSpec
from sbrl.errors import RunError
from sbrl.networks.serialization import decode
from sbrl.replay.receipts import Receipts
from sbrl.storage.checkpoints import CorruptCheckpointError, find_checkpoint, read_checkpoint_file
from sbrl.storage.run_directory import RunDirectory
from services.evaluator.agent import load_agent

RECEIVED = {"ratio": {"received": 5, "due": 2.5, "trained": 2}, "receipts": Receipts().state()}
SPEC = EnvSpec(2, (36, 36), np.dtype(np.uint8), 4, "frames", True)
CONFIG = config.build({"agent": {"hidden_size": 16, "num_quantiles": 5}, "learner": {"target_update_period": 3}})


EVERYTHING = config.build(
    {
        "agent": {
            **{"algorithm": "iqn", "noisy": True, "exploration": "noisy-nets", "dueling": True, "double": True},
            **{"torso": "impala", "width_scale": 0.25, "layer_norm": True, "hidden_size": 16, "tau_embedding_size": 8},
            **{"num_tau_samples": 4, "num_tau_prime_samples": 4, "num_policy_samples": 4, "spr_weight": 5, "spr_jumps": 2},
        },
        "learner": {
            **{"weight_decay": 0.1, "max_gradient_norm": 10, "target_update_period": 1, "target_update_rate": 0.005},
            **{"random_shift": 4, "intensity_jitter": 0.05, "reset_period": 3, "learning_rate": 1e-3},
        },
    }
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # these networks are too small for several threads


def train(step: UpdateStep, generator: np.random.Generator, updates: int) -> list[float]:
    losses = []
    for _ in range(updates):
        observations = torch.from_numpy(generator.integers(0, 256, size=(2, 4, 4, 36, 36)).astype(np.uint8))
        rewards = torch.from_numpy(generator.normal(size=4).astype(np.float32)) + torch.rand(4)
        actions = torch.from_numpy(generator.integers(2, size=4))
        sequence = Sequence(observations[:2].transpose(0, 1), actions[:, None].expand(4, 2), torch.ones(4, 2).bool())
        batch = Batch(
            observations[0], actions, rewards, torch.full((4,), 0.9), observations[1], torch.ones(4).double(), sequence
        )
        losses.append(step.update(batch).loss.item())
    return losses


def state_of(step: UpdateStep) -> SavedLearner:
    return SavedLearner(step.state(), {"samples_trained": 4 * step.updates}, capture_random(), RECEIVED)


def save_after_each_update(store: CheckpointStore, updates: int) -> UpdateStep:
    step, generator = make_update_step(CONFIG, SPEC), np.random.default_rng(0)
    for _ in range(updates):
        train(step, generator, 1)
        store.save(state_of(step))
    return step


@pytest.mark.parametrize("settings", [CONFIG, EVERYTHING], ids=["default", "everything"])
def test_a_restored_learner_goes_on_bit_for_bit(tmp_path: Path, settings: config.Config) -> None:
    """Resets, if any, follow updates 3 and 6. Then the run's seed is the same, because resets draw from it."""
    store = CheckpointStore(tmp_path / "learner", keep=3)
    step, generator = make_update_step(settings, SPEC), np.random.default_rng(7)
    train(step, generator, 4)
    store.save(SavedLearner(step.state(), {"samples_trained": 16, "env_steps": 2}, capture_random(), RECEIVED))
    generator_state = generator.bit_generator.state
    expected = train(step, generator, 4)

    torch.manual_seed(99)
    resumed, resumed_generator = make_update_step(settings, SPEC), np.random.default_rng(8)
    train(resumed, resumed_generator, 1)
    state = store.load_newest()
    assert state is not None
    assert state.counters == {"samples_trained": 16, "env_steps": 2}
    resumed.restore(state.update)
    restore_random(state.random)
    resumed_generator.bit_generator.state = generator_state
    assert resumed.updates == 4
    assert train(resumed, resumed_generator, 4) == expected
    for ours, theirs in zip(step.state()[:4], resumed.state()[:4], strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_nothing_saved_yet(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "absent", keep=1).load_newest() is None


def test_keeps_the_newest(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    save_after_each_update(store, 4)
    assert [path.name for path in store.checkpoints()] == ["updates-000000000003", "updates-000000000004"]


@pytest.mark.parametrize(
    "file",
    [
        "online.safetensors",
        "target.safetensors",
        "auxiliary.safetensors",
        "optimizer.safetensors",
        "state.json",
        "manifest.json",
    ],
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


@pytest.mark.parametrize("part", ["online", "target", "optimizer"])
def test_falls_back_past_a_checkpoint_that_is_not_finite(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    directory = RunDirectory(tmp_path)
    directory.config.write_text(config.dump(CONFIG))
    store, step = CheckpointStore(directory.learner_checkpoints, keep=3), make_update_step(CONFIG, SPEC)
    for updates in (1, 2):
        train(step, np.random.default_rng(0), 1)
        if updates == 2:
            next(iter(getattr(step.state(), part).values())).fill_(float("nan"))
        store.save(SavedLearner(step.state(), {"env_steps": updates}, capture_random(), RECEIVED))
    with caplog.at_level(logging.WARNING):
        state = store.load_newest()
    assert state is not None
    assert state.update.updates == 1
    assert "holds numbers that are not finite" in caplog.text
    agent = load_agent(directory, updates=None)
    assert agent.updates == (1 if part == "online" else 2)
    assert ("not finite" in capsys.readouterr().err) == (part == "online")


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
        RunError, match=r"checkpoint's online weights do not fit .* head.output.layer.bias is \(10,\), the network has \(12,\)"
    ):
        larger.restore(state.update)


@pytest.mark.parametrize("act_with_target", [False, True])
def test_evaluation_takes_the_network_that_acts(tmp_path: Path, act_with_target: bool) -> None:
    directory = RunDirectory(tmp_path)
    settings = config.build(CONFIG.model_dump(), {"agent": {"act_with_target": act_with_target}})
    directory.config.write_text(config.dump(settings))
    step = make_update_step(settings, SPEC)
    train(step, np.random.default_rng(0), 2)  # the target network is two updates behind
    counters: dict[str, int | float] = {"env_steps": 5}
    CheckpointStore(directory.learner_checkpoints, keep=1).save(
        SavedLearner(step.state(), counters, capture_random(), RECEIVED)
    )
    found = load_agent(directory, updates=None).weights
    expected = step.state().target if act_with_target else step.state().online
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert not torch.equal(step.state().target["head.output.layer.weight"], step.state().online["head.output.layer.weight"])


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


@pytest.mark.parametrize(
    "state",
    [
        *("[]", "{", '{"received": {}}', '{"received": 5, "counters": {}, "random": {}}'),
        *(f'{{"counters": {{"env_steps": {steps}}}, "random": {{}}, "received": {{}}}}' for steps in ('"5"', "NaN")),
    ],
)
def test_a_checkpoint_that_holds_something_else_under_the_right_checksums_falls_back(tmp_path: Path, state: str) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    save_after_each_update(store, 2)
    newest = find_checkpoint(tmp_path, updates=2)
    replace_signed(newest, "state.json", state.encode())
    with pytest.raises(CorruptCheckpointError, match=r"state\.json"):
        load(newest)
    replace_signed(newest, "state.json", read_checkpoint_file(find_checkpoint(tmp_path, updates=1), "state.json"))
    replace_signed(newest, "target.safetensors", b"no tensors")
    with pytest.raises(CorruptCheckpointError, match=r"target\.safetensors"):
        load(newest)
    found = store.load_newest()
    assert found is not None
    assert found.update.updates == 1


def test_a_checkpoint_of_a_version_whose_replay_kept_the_ratio_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """It is complete: falling back to an older one, or starting afresh, would lose its content."""
    store = CheckpointStore(tmp_path, keep=2)
    save_after_each_update(store, 2)
    for updates in (1, 2):
        checkpoint = find_checkpoint(tmp_path, updates)
        state = json.loads(read_checkpoint_file(checkpoint, "state.json"))
        del state["received"]
        replace_signed(checkpoint, "state.json", json.dumps(state).encode())
    with pytest.raises(
        RunError, match=r"^[^\n]*updates-0+2 is of an earlier version of SBRL, [^\n]*: start a new run"
    ) as refusal:
        store.load_newest()
    assert not isinstance(refusal.value, CorruptCheckpointError)
    assert len(store.checkpoints()) == 2


@pytest.mark.parametrize(
    "received",
    [{}, {"ratio": {"received": 1}, "receipts": Receipts().state()}, {"ratio": RECEIVED["ratio"], "receipts": {"writers": 3}}],
)
def test_counts_that_are_none_are_refused_in_a_sentence(received: dict[str, Any]) -> None:
    state = SavedLearner(make_update_step(CONFIG, SPEC).state(), {"max_priority": 1.0}, {}, received)
    with pytest.raises(RunError, match=r"checkpoint of update 0 does not say what was received \("):
        Replay.of(CONFIG, SPEC, torch.device("cpu"), "cached", state, term=1)


def replace_signed(checkpoint: Path, name: str, data: bytes) -> None:
    """Replaces a file of a checkpoint, and its checksum."""
    (checkpoint / name).write_bytes(data)
    manifest = json.loads((checkpoint / "manifest.json").read_bytes())
    manifest["sha256"][name] = hashlib.sha256(data).hexdigest()
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def test_random_states_of_another_kind_are_refused_in_words() -> None:
    before = capture_random()
    for states in ({}, {"torch": "zz", "cuda": []}, {"torch": "00ff", "cuda": []}, {"torch": 5, "cuda": []}):
        with pytest.raises(RunError, match="random states cannot be used"):
            restore_random(states)
    assert capture_random() == before
