"""Resets: new, shrunk and perturbed parameters, forgotten optimizer state, and the same resets in a resumed run."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from learner.algorithm.update import UpdateStep, make_update_step
from learner.records import Batch, Sequence
from sbrl import config
from sbrl.envs.spec import EnvSpec
from sbrl.seeds import reset_seed

FRAMES = EnvSpec(3, (36, 36), np.dtype(np.uint8), 4, "frames", True)
ENCODER = ("torso.encoder.", "transition.")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # these networks are too small for several threads


def make_step(seed: int = 0, **learner: Any) -> UpdateStep:
    agent = {
        "algorithm": "c51",
        "dueling": True,
        "spr_weight": 5,
        "spr_jumps": 2,
        "hidden_size": 16,
        "num_atoms": 5,
        "v_max": 10,
    }
    settings = {"reset_period": 3, "reset_encoder_keep": 0.8, "learning_rate": 1e-3} | learner
    return make_update_step(config.build({"agent": agent, "learner": settings, "run": {"seed": seed}}), FRAMES)


def train(step: UpdateStep, updates: int) -> None:
    generator = np.random.default_rng(step.updates)
    for _ in range(updates):
        observation = torch.from_numpy(generator.integers(0, 256, (4, 4, 4, 36, 36)).astype(np.uint8))
        action, ones = torch.from_numpy(generator.integers(0, 3, (4, 2))), torch.ones(4)
        sequence = Sequence(observation[:, 1:3], action, torch.ones(4, 2).bool())
        step.update(Batch(observation[:, 0], action[:, 0], ones, 0.9 * ones, observation[:, 3], ones.double(), sequence))


def tensors(step: UpdateStep) -> dict[str, dict[str, Tensor]]:
    """Copies of the learned parameters, the target's, and the moments."""
    online, target, auxiliary, optimizer, _ = step.state()
    parts = {"learned": online | auxiliary, "target": target, "optimizer": optimizer}
    return {part: {name: tensor.clone() for name, tensor in named.items()} for part, named in parts.items()}


def equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_a_reset_follows_the_third_update_and_does_what_it_says(caplog: pytest.LogCaptureFixture) -> None:
    with_resets, without = make_step(), make_step(reset_period=None)
    for step in (with_resets, without):
        train(step, 2)
    assert equal(tensors(with_resets)["learned"], tensors(without)["learned"])
    with caplog.at_level(logging.INFO, "learner.algorithm.resets"):
        for step in (with_resets, without):
            train(step, 1)
    assert "reset 1 after update 3" in caplog.text

    fresh_step = make_step(seed=reset_seed(0, 1))
    fresh, before, after = tensors(fresh_step)["learned"], tensors(without), tensors(with_resets)
    for part in ("learned", "target"):
        for name, tensor in after[part].items():
            if name.startswith(ENCODER):
                torch.testing.assert_close(tensor, 0.8 * before[part][name] + 0.2 * fresh[name])
            else:
                assert torch.equal(tensor, fresh[name]), name
    for name, moment in after["optimizer"].items():
        _, parameter = name.split("/")
        if parameter.startswith(ENCODER):
            assert torch.equal(moment, before["optimizer"][name])
            assert moment.any()
        else:
            assert not moment.any(), name
    parts = {name.rsplit(".", 2)[0] for name in after["learned"] if not name.startswith(ENCODER)}
    assert {part.split(".")[0] for part in parts} == {"torso", "head", "predictor"}  # the projection is the rest of the torso


def test_each_reset_draws_other_values() -> None:
    step = make_step(reset_encoder_keep=0.0)
    train(step, 3)
    first = tensors(step)["learned"]
    train(step, 3)
    second = tensors(step)["learned"]
    assert not any(torch.equal(first[name], second[name]) for name in first if not name.endswith("bias"))


def test_resets_end() -> None:
    # At one update per step, the first reset comes at env step 20,003, and the second would come at 20,006.
    step = make_step(updates_per_step=1, no_resets_after_env_steps=20_004)
    train(step, 5)
    before = tensors(step)["learned"]["head.output.value.layer.weight"]
    train(step, 1)
    after = tensors(step)["learned"]["head.output.value.layer.weight"]
    assert (before - after).abs().max() < 0.01


def test_a_resumed_run_resets_as_if_it_had_never_stopped() -> None:
    whole, first_half = make_step(), make_step()
    torch.manual_seed(0)
    train(whole, 2)
    train(whole, 2)
    train(whole, 4)
    torch.manual_seed(0)
    train(first_half, 2)
    train(first_half, 2)
    resumed = make_step()
    resumed.restore(first_half.state())
    train(resumed, 4)
    for part, expected in tensors(whole).items():
        assert equal(tensors(resumed)[part], expected), part


def test_training_goes_on_at_its_usual_pace_after_a_reset() -> None:
    """Adam's bias correction starts again with the moments, so the first step is at most the learning rate."""
    step = make_step()
    train(step, 3)
    before = tensors(step)["learned"]
    train(step, 1)
    after = tensors(step)["learned"]
    steps = torch.cat([(after[name] - before[name]).flatten() for name in after if not name.startswith(ENCODER)])
    assert 0.5e-3 < steps.abs().max() <= 1.001e-3


def test_seeds_of_resets_differ() -> None:
    seeds = {reset_seed(run, number) for run in range(20) for number in range(1, 20)}
    assert len(seeds) == 20 * 19
