"""The losses against loops that say what the equations say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from learner.losses import importance_weights, priorities, quantile_huber_loss, quantile_targets, select_action


def reference_loss(quantiles: Tensor, targets: Tensor, kappa: float) -> Tensor:
    """float64[B], differentiable: the quantile Huber loss, one pair of quantiles at a time."""
    losses = []
    for theta, target in zip(quantiles, targets, strict=True):
        total = theta.new_zeros(())
        for i in range(len(theta)):
            tau = (i + 0.5) / len(theta)
            for t in target:
                u = t - theta[i]
                huber = 0.5 * u**2 if abs(u) <= kappa else kappa * (abs(u) - 0.5 * kappa)
                total = total + abs(tau - float(u < 0)) * huber / len(target)
        losses.append(total)
    return torch.stack(losses)


@pytest.mark.parametrize("kappa", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("offset", [0.0, -3e4])
def test_loss_and_gradient_match_the_loop(kappa: float, offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    quantiles = (2 * torch.randn(3, 7, generator=generator, dtype=torch.float64) + offset).requires_grad_()
    targets = 2 * torch.randn(3, 5, generator=generator, dtype=torch.float64) + offset
    expected = reference_loss(quantiles, targets, kappa)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), quantiles)
    loss, gradient = quantile_huber_loss(quantiles.detach(), targets, kappa)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-9)


def test_loss_at_ties_and_far_away() -> None:
    quantiles = torch.tensor([[0.0, 0.0], [0.0, 1000.0]])
    targets = torch.tensor([[0.0, 0.0], [0.0, 1000.0]])
    loss, gradient = quantile_huber_loss(quantiles, targets, kappa=1.0)
    # Second row: tau = 1/4 and 3/4 meet the far target with weights 1/4 each way: 2 x 1/4 x 999.5 / 2 targets.
    torch.testing.assert_close(loss, torch.tensor([0.0, 249.875]))
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 0.0], [-0.125, 0.125]]))
    assert loss.dtype == gradient.dtype == torch.float32


def test_loss_is_nan_where_a_target_is_nan() -> None:
    loss, _ = quantile_huber_loss(torch.zeros(2, 3), torch.tensor([[0.0, torch.nan], [0.0, 1.0]]), kappa=1.0)
    assert loss.isnan().tolist() == [True, False]


def test_targets_take_the_action_with_the_largest_mean_and_stop_at_a_terminal() -> None:
    quantiles_t = torch.tensor([[[0.0, 10.0], [4.0, 4.0]], [[1.0, 1.0], [0.0, 3.0]]])
    targets = quantile_targets(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0]), quantiles_t)
    torch.testing.assert_close(targets, torch.tensor([[1.0, 6.0], [2.0, 2.0]]))


def test_select_action() -> None:
    quantiles = torch.arange(12.0).reshape(2, 3, 2)
    assert select_action(quantiles, torch.tensor([2, 0])).tolist() == [[4.0, 5.0], [6.0, 7.0]]


def test_importance_weights_and_priorities() -> None:
    weights = importance_weights(torch.tensor([1e-8, 4e-8], dtype=torch.float64))
    torch.testing.assert_close(weights, torch.tensor([1.0, 0.5]))
    result = priorities(torch.tensor([0.0, 4.0]), 0.5)
    torch.testing.assert_close(result, torch.tensor([1e-5, 2.0], dtype=torch.float64))
