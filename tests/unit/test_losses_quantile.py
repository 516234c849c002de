"""The closed form of the quantile Huber loss, against a plain loop over the equation, and cases for rounding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from learner.algorithm.losses.priorities import priorities
from learner.algorithm.losses.quantile import midpoints, quantile_targets
from learner.algorithm.losses.quantile_huber import quantile_huber_loss


def reference_loss(quantiles: Tensor, tau: Tensor, targets: Tensor, kappa: float) -> Tensor:
    """float64[B], differentiable: the quantile Huber loss, one pair of quantiles at a time; tau is float64[B, N]."""
    losses = []
    for theta, fractions, target in zip(quantiles, tau, targets, strict=True):
        total = theta.new_zeros(())
        for i in range(len(theta)):
            for t in target:
                u = t - theta[i]
                huber = 0.5 * u**2 if abs(u) <= kappa else kappa * (abs(u) - 0.5 * kappa)
                total = total + abs(fractions[i] - float(u < 0)) * huber / len(target)
        losses.append(total)
    return torch.stack(losses)


@pytest.mark.parametrize("tau_shape", [(7,), (3, 7)], ids=str)
@pytest.mark.parametrize("kappa", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("offset", [0.0, -3e4])
def test_loss_and_gradient_match_the_loop(kappa: float, offset: float, tau_shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    quantiles = (2 * torch.randn(3, 7, generator=generator, dtype=torch.float64) + offset).requires_grad_()
    targets = 2 * torch.randn(3, 5, generator=generator, dtype=torch.float64) + offset
    tau = torch.rand(tau_shape, generator=generator, dtype=torch.float64)
    weights = torch.tensor([0.5, 1.0, -2.0], dtype=torch.float64)  # of the samples: the backward pass scales by these
    expected = reference_loss(quantiles, tau.expand(3, 7), targets, kappa)
    (expected_gradient,) = torch.autograd.grad((weights * expected).sum(), quantiles)
    loss = quantile_huber_loss(quantiles, tau, targets, kappa)
    (gradient,) = torch.autograd.grad((weights * loss).sum(), quantiles)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-9)


def test_loss_at_ties_and_far_away() -> None:
    quantiles = torch.tensor([[0.0, 0.0], [0.0, 1000.0]], requires_grad=True)
    targets = torch.tensor([[0.0, 0.0], [0.0, 1000.0]])
    loss = quantile_huber_loss(quantiles, midpoints(quantiles), targets, kappa=1.0)
    (gradient,) = torch.autograd.grad(loss.sum(), quantiles)
    # Second row: tau = 1/4 and 3/4 meet the far target with weights 1/4 each way: 2 x 1/4 x 999.5 / 2 targets.
    torch.testing.assert_close(loss, torch.tensor([0.0, 249.875]))
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 0.0], [-0.125, 0.125]]))
    assert loss.dtype == gradient.dtype == torch.float32


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e6])
def test_priority_of_a_loss_near_zero_in_float32(offset: float) -> None:
    """Rounding must not make a loss negative, because its root, the priority, would be NaN."""
    generator = torch.Generator().manual_seed(0)
    targets = (offset + torch.randn(1000, 1, generator=generator)).expand(-1, 50)
    quantiles = targets + 1e-7 * torch.randn(1000, 50, generator=generator) * targets.abs()
    loss = quantile_huber_loss(quantiles, midpoints(quantiles), targets, kappa=1.0)
    assert (loss >= 0).all()
    assert (priorities(loss, 0.5) > 0).all()


def test_loss_is_nan_where_a_target_is_nan() -> None:
    targets = torch.tensor([[0.0, torch.nan], [0.0, 1.0]])
    loss = quantile_huber_loss(torch.zeros(2, 3), torch.tensor([0.2, 0.5, 0.8]), targets, kappa=1.0)
    assert loss.isnan().tolist() == [True, False]


def test_only_the_quantiles_get_a_gradient() -> None:
    quantiles, tau, targets = (torch.rand(2, 3, requires_grad=True) for _ in range(3))
    quantile_huber_loss(quantiles, tau, targets, kappa=1.0).sum().backward()
    assert quantiles.grad is not None
    assert tau.grad is None
    assert targets.grad is None


def test_targets_take_the_action_that_is_chosen_and_stop_at_a_terminal() -> None:
    quantiles_t = torch.tensor([[[0.0, 10.0], [4.0, 4.0]], [[1.0, 1.0], [0.0, 3.0]]])
    r_t, discount_t = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0])
    targets = quantile_targets(r_t, discount_t, quantiles_t, quantiles_t.mean(dim=-1))
    torch.testing.assert_close(targets, torch.tensor([[1.0, 6.0], [2.0, 2.0]]))
    chosen = quantile_targets(r_t, discount_t, quantiles_t, torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    torch.testing.assert_close(chosen, torch.tensor([[3.0, 3.0], [2.0, 2.0]]))


def test_midpoints() -> None:
    assert midpoints(torch.zeros(3, 4)).tolist() == [0.125, 0.375, 0.625, 0.875]
