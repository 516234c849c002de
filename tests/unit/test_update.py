"""The update step: what it changes, when, and that it repeats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from learner.records import Batch
from learner.update import UpdateStep, find_device, make_update_step
from sbrl import config
from sbrl.envs.spec import EnvSpec
from sbrl.errors import RunError
from sbrl.networks.build import build_network

FRAMES = EnvSpec(3, (36, 36), np.dtype(np.uint8), 4, "frames", True)
VECTOR = EnvSpec(3, (4,), np.dtype(np.float32), 1, "vector", False)


def make_config(**learner: Any) -> config.Config:
    return config.build({"agent": {"hidden_size": 32, "num_quantiles": 10}, "learner": learner})


def make_batch(spec: EnvSpec, size: int = 8, seed: int = 0) -> Batch:
    generator = np.random.default_rng(seed)
    observations = generator.integers(0, 256, size=(2, size, *spec.observation_shape)).astype(spec.frame_dtype)
    if spec.kind == "vector":
        observations /= 255
    return Batch(
        s_tm1=torch.from_numpy(observations[0]),
        a_tm1=torch.from_numpy(generator.integers(spec.num_actions, size=size)),
        r_t=torch.from_numpy(generator.normal(size=size).astype(np.float32)),
        discount_t=torch.full((size,), 0.97),
        s_t=torch.from_numpy(observations[1]),
        probability=torch.from_numpy(generator.uniform(1e-6, 1e-5, size=size)),
    )


def weights(step: UpdateStep, which: str = "online") -> list[torch.Tensor]:
    state: dict[str, torch.Tensor] = getattr(step.state(), which)
    return [tensor.clone() for tensor in state.values()]


def equal(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_overfits_a_batch_whose_targets_are_the_rewards() -> None:
    step = make_update_step(make_config(learning_rate=1e-2), VECTOR)
    batch = make_batch(VECTOR)._replace(discount_t=torch.zeros(8))
    first = step.update(batch)
    for _ in range(300):
        last = step.update(batch)
    assert last.loss < 0.01 * first.loss
    assert last.mean_q.item() == pytest.approx(batch.r_t.mean().item(), abs=0.05)


def test_step_is_adam_on_the_plain_loss() -> None:
    """Against torch's own Adam and autograd through the plain formula."""
    settings = make_config(learning_rate=1e-3)
    step, batch = make_update_step(settings, FRAMES), make_batch(FRAMES)
    online = build_network(settings.agent, FRAMES, seed=settings.run.seed)
    optimizer = torch.optim.Adam(online.parameters(), lr=1e-3, eps=settings.learner.adam_epsilon)
    with torch.no_grad():
        next_quantiles = online(batch.s_t)
        best = next_quantiles.mean(2).argmax(1)
        targets = batch.r_t[:, None] + 0.97 * next_quantiles[torch.arange(8), best]
    for _ in range(3):
        u = targets[:, None, :] - online(batch.s_tm1)[torch.arange(8), batch.a_tm1][:, :, None]
        tau = ((torch.arange(10) + 0.5) / 10)[:, None]
        losses = (tau - (u < 0).float()).abs() * torch.nn.functional.huber_loss(
            u, torch.zeros(()).expand_as(u), reduction="none"
        )
        loss = losses.mean(2).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        result = step.update(batch)
        norm = torch.stack([p.grad.square().sum() for p in online.parameters() if p.grad is not None]).sum().sqrt()
        torch.testing.assert_close(result.loss, loss.detach(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(step.gradient_norm(), norm, rtol=1e-3, atol=1e-6)
    for expected, found in zip(online.state_dict().values(), weights(step), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-5)


def test_target_is_copied_every_period_and_only_then() -> None:
    step, batch = make_update_step(make_config(target_update_period=3), VECTOR), make_batch(VECTOR)
    initial = weights(step)
    for updates in range(1, 7):
        step.update(batch)
        if updates in (3, 6):
            assert equal(weights(step, "target"), weights(step))
            initial = weights(step)
        else:
            assert equal(weights(step, "target"), initial)
            assert not equal(weights(step, "target"), weights(step))
    assert step.updates == 6


@pytest.mark.parametrize("spec", [FRAMES, VECTOR], ids=lambda spec: spec.kind)
def test_same_seed_same_weights(spec: EnvSpec) -> None:
    torch.set_num_threads(1)
    steps = [make_update_step(make_config(target_update_period=2), spec) for _ in range(2)]
    losses = [[step.update(make_batch(spec, seed=seed)).loss.item() for seed in range(4)] for step in steps]
    assert losses[0] == losses[1]
    assert equal(weights(steps[0]), weights(steps[1]))


def test_priorities_are_the_samples_own_losses() -> None:
    batch = make_batch(VECTOR)
    together = make_update_step(make_config(), VECTOR).update(batch).priorities.numpy()
    alone = [make_update_step(make_config(), VECTOR).update(Batch(*(tensor[i : i + 1] for tensor in batch))) for i in range(8)]
    assert together.dtype == np.float64
    np.testing.assert_allclose(together, [result.loss.item() ** 0.5 for result in alone], rtol=1e-4)


def test_importance_weights_weigh_loss_but_not_priorities() -> None:
    batch = make_batch(VECTOR)
    plain = make_update_step(make_config(), VECTOR).update(batch)
    tree = config.build(make_config().model_dump(), {"replay": {"importance_weights": True}})
    weighted = make_update_step(tree, VECTOR).update(batch)
    factors = np.sqrt(batch.probability.numpy().min() / batch.probability.numpy())
    np.testing.assert_array_equal(weighted.priorities.numpy(), plain.priorities.numpy())
    assert weighted.loss.item() == pytest.approx((plain.priorities.numpy() ** 2 * factors).mean(), rel=1e-5)


def test_gradient_norm_before_the_first_update() -> None:
    with pytest.raises(RunError, match="only after an update"):
        make_update_step(make_config(), VECTOR).gradient_norm()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_asked_for_and_absent() -> None:
    with pytest.raises(RunError, match=r"learner.device=cuda:1: .* 0 CUDA devices; set learner.device=cpu"):
        find_device("cuda:1")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_agrees_with_the_cpu() -> None:
    batch = make_batch(FRAMES)
    on_cpu, on_cuda = (make_update_step(make_config(device=device), FRAMES).update(batch) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(on_cuda.priorities.numpy(), on_cpu.priorities.numpy(), rtol=1e-2)
