"""The update step: its changes, their times, and reproducibility."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from learner.algorithm.optimizer import Gradient
from learner.algorithm.update import UpdateStep, make_update_step
from learner.records import Batch, Sequence, UpdateResult
from sbrl import config
from sbrl.envs.spec import EnvSpec
from sbrl.errors import UsageError
from sbrl.networks.build import build_network
from sbrl.networks.devices import find_device

FRAMES = EnvSpec(3, (36, 36), np.dtype(np.uint8), 4, "frames", True)
VECTOR = EnvSpec(3, (4,), np.dtype(np.float32), 1, "vector", False)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # these networks are too small for several threads


def make_config(agent: dict[str, Any] | None = None, **learner: Any) -> config.Config:
    return config.build({"agent": {"hidden_size": 32, "num_quantiles": 10} | (agent or {}), "learner": learner})


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


def only(batch: Batch, i: int) -> Batch:
    """The batch of sample `i` alone."""
    one = slice(i, i + 1)
    return Batch(
        batch.s_tm1[one], batch.a_tm1[one], batch.r_t[one], batch.discount_t[one], batch.s_t[one], batch.probability[one]
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
    assert last.mean_q().item() == pytest.approx(batch.r_t.mean().item(), abs=0.05)


@pytest.mark.parametrize("beta2", [0.999, 0.5])
def test_step_is_adam_on_the_plain_loss(beta2: float) -> None:
    """Against torch's own Adam and autograd through the plain formula."""
    settings = make_config(learning_rate=1e-3, adam_beta2=beta2, adam_epsilon=1e-8)
    step, batch = make_update_step(settings, FRAMES), make_batch(FRAMES)
    online = build_network(settings.agent, FRAMES, seed=settings.run.seed)
    optimizer = torch.optim.Adam(online.parameters(), lr=1e-3, betas=(0.9, beta2), eps=settings.learner.adam_epsilon)
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
        torch.testing.assert_close(result.gradient.norm(), norm, rtol=1e-3, atol=1e-6)
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


def test_the_target_may_follow_slowly() -> None:
    step, batch = make_update_step(make_config(target_update_period=2, target_update_rate=0.1), VECTOR), make_batch(VECTOR)
    initial = weights(step)
    step.update(batch)
    assert equal(weights(step, "target"), initial)
    step.update(batch)
    for target, start, online in zip(weights(step, "target"), initial, weights(step), strict=True):
        torch.testing.assert_close(target, 0.9 * start + 0.1 * online)


def test_either_network_may_act() -> None:
    batch = make_batch(VECTOR)
    for act_with_target, network in ((False, "online"), (True, "target")):
        step = make_update_step(make_config({"act_with_target": act_with_target}), VECTOR)
        step.update(batch)
        assert equal(list(step.acting_weights().values()), weights(step, network))


def test_weight_decay_is_decoupled_and_spares_biases_and_norms() -> None:
    """Like AdamW, with exceptions: without a gradient, weights shrink by learning rate x decay, and exceptions stay."""
    settings = make_config({"layer_norm": True}, learning_rate=1e-2, weight_decay=0.5)
    plain, decayed = (
        make_update_step(make_config({"layer_norm": True}, learning_rate=1e-2), FRAMES),
        make_update_step(settings, FRAMES),
    )
    before = {name: tensor.clone() for name, tensor in plain.state().online.items()}
    for step in (plain, decayed):
        step.update(make_batch(FRAMES))
    shrunk = set()
    for name, tensor in decayed.state().online.items():
        difference = tensor - plain.state().online[name]
        if difference.any():
            torch.testing.assert_close(difference, -1e-2 * 0.5 * before[name], atol=1e-6, rtol=1e-3)
            shrunk.add(name)
    dense = {"torso.projection.1.weight", "head.output.layer.weight"}
    convolutions = {name for name, tensor in before.items() if tensor.dim() == 4}
    assert len(convolutions) == 3
    assert shrunk == dense | convolutions


def test_clipping_bounds_the_gradient_and_reports_it_as_it_was() -> None:
    batch = make_batch(VECTOR)
    free, clipped = (make_update_step(make_config(max_gradient_norm=norm), VECTOR) for norm in (None, 0.01))
    norms = [step.update(batch).gradient.norm().item() for step in (free, clipped)]
    assert norms[1] == pytest.approx(norms[0])
    assert norms[0] > 0.1
    # Adam's first moment is a tenth of the first gradient.
    moments = [tensor for name, tensor in clipped.state().optimizer.items() if name.startswith("exp_avg/")]
    assert torch.nn.utils.get_total_norm(moments) == pytest.approx(0.1 * 0.01, rel=1e-3)


NOISY = {"noisy": True, "exploration": "noisy-nets"}


def test_each_update_has_noise_of_its_own_from_the_global_generator() -> None:
    torch.manual_seed(0)
    batch = make_batch(VECTOR)
    first, second, repeated = (make_update_step(make_config(NOISY, learning_rate=1e-9), VECTOR) for _ in range(3))
    state = torch.get_rng_state()
    losses = [first.update(batch).loss.item() for _ in range(5)]
    assert len(set(losses)) == 5
    assert second.update(batch).loss.item() not in losses
    torch.set_rng_state(state)
    assert [repeated.update(batch).loss.item() for _ in range(5)] == losses


def test_online_and_target_network_have_noise_of_their_own() -> None:
    """With the same noise, an update towards the network's own values at the same observation would have no error."""
    one_action = VECTOR._replace(num_actions=1)
    batch = make_batch(one_action)
    same = batch._replace(s_t=batch.s_tm1, r_t=torch.zeros(8), discount_t=torch.ones(8))
    quiet, noisy = (make_update_step(make_config({"algorithm": "dqn"} | extra), one_action) for extra in ({}, NOISY))
    assert quiet.update(same).loss == 0
    assert noisy.update(same).loss > 1e-6


def test_images_are_augmented() -> None:
    batch = make_batch(FRAMES)
    plain, shifted, jittered = (
        make_update_step(make_config(**learner), FRAMES).update(batch).loss.item()
        for learner in ({}, {"random_shift": 4}, {"intensity_jitter": 0.05})
    )
    assert len({plain, shifted, jittered}) == 3


def test_self_prediction_adds_its_weighted_loss() -> None:
    """The optimizer's first moments are a tenth of the gradient, and the gradient is linear in the weight."""
    batch = make_batch(FRAMES)
    future = Sequence(batch.s_t[:, None], batch.a_tm1[:, None], torch.ones(8, 1).bool())
    moments, results = [], []
    for weight in (0.0, 2.0, 4.0):
        agent = {"spr_weight": weight, "spr_jumps": 1}
        step = make_update_step(make_config(agent), FRAMES)
        results.append(step.update(batch._replace(sequence=future)))
        moments.append({name: tensor.clone() for name, tensor in step.state().optimizer.items()})
    assert results[0].spr_loss == 0
    assert 0 < results[1].spr_loss == results[2].spr_loss <= 4
    assert results[1].loss == results[2].loss
    np.testing.assert_array_equal(results[1].priorities.numpy(), results[2].priorities.numpy())
    name = "exp_avg/predictor.weight"
    assert name not in moments[0]
    torch.testing.assert_close(moments[2][name], 2 * moments[1][name])


@pytest.mark.parametrize("spec", [FRAMES, VECTOR], ids=lambda spec: spec.kind)
def test_same_seed_same_weights(spec: EnvSpec) -> None:
    steps = [make_update_step(make_config(target_update_period=2), spec) for _ in range(2)]
    losses = [[step.update(make_batch(spec, seed=seed)).loss.item() for seed in range(4)] for step in steps]
    assert losses[0] == losses[1]
    assert equal(weights(steps[0]), weights(steps[1]))


def test_priorities_are_the_samples_own_losses() -> None:
    batch = make_batch(VECTOR)
    together = make_update_step(make_config(), VECTOR).update(batch).priorities.numpy()
    alone = [make_update_step(make_config(), VECTOR).update(only(batch, i)) for i in range(8)]
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


def test_td_error_is_the_mean_distance_to_the_target() -> None:
    result = UpdateResult(
        loss=torch.zeros(()),
        spr_loss=torch.zeros(()),
        q_tm1=torch.tensor([1.0, 2.0]),
        target=torch.tensor([[0.0, 1.0], [5.0, 6.0]]),
        priorities=torch.zeros(2),
        gradient=Gradient((), None),
    )
    assert result.td_error() == pytest.approx((0.5 + 3.5) / 2)
    assert result.mean_q() == 1.5


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_asked_for_and_absent() -> None:
    with pytest.raises(UsageError, match=r"learner.device=cuda:1: .* 0 CUDA devices; set learner.device=cpu"):
        find_device("cuda:1")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_agrees_with_the_cpu() -> None:
    batch = make_batch(FRAMES)
    on_cpu, on_cuda = (make_update_step(make_config(device=device), FRAMES).update(batch) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(on_cuda.priorities.numpy(), on_cpu.priorities.numpy(), rtol=1e-2)
