"""The diagnostics' mathematics, against cases with known answers and plain references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.algorithm.measures import (
    GradientAverage,
    GradientMoments,
    churn_ratio,
    dormant_ratio,
    effective_rank,
    gradient_moments,
    unit_activity,
)

NAN, INFINITY = float("nan"), float("inf")


@given(st.floats(0.01, 100), st.floats(0, 1000), st.integers(1, 512), st.integers(2, 64))
def test_moments_follow_from_the_expected_norms_of_two_batch_sizes(signal: float, noise: float, small: int, times: int) -> None:
    """E|G_B|^2 = |G|^2 + tr(Sigma) / B (equation A.1) is inverted."""
    big = small * times
    found = gradient_moments(signal + noise / small, signal + noise / big, small, big)
    assert found.signal == pytest.approx(signal, rel=1e-6, abs=1e-6 * noise)
    assert found.noise == pytest.approx(noise, rel=1e-6, abs=1e-6 * small * signal)


def test_noise_scale_of_a_quadratic_problem() -> None:
    """The loss |w - x|^2 / 2, x from N(m, diag(s^2)): gradients have mean w - m and covariance diag(s^2), both known."""
    generator = np.random.default_rng(0)
    distance, scale = generator.normal(size=30), generator.uniform(0.5, 3, size=30)
    small, num = 8, 16
    average = GradientAverage()
    for _ in range(400):
        gradients = (distance + scale * generator.normal(size=(num, small, 30))).mean(axis=1)
        small_squared = np.square(gradients).sum(axis=1).mean()
        big_squared = np.square(gradients.mean(axis=0)).sum()
        average = average.add(gradient_moments(small_squared, big_squared, small, small * num), decay=1.0)
    true = GradientMoments(np.square(distance).sum(), np.square(scale).sum())
    assert true.noise_scale == pytest.approx(true.noise / true.signal)
    assert average.mean.signal == pytest.approx(true.signal, rel=0.02)
    assert average.mean.noise == pytest.approx(true.noise, rel=0.02)
    assert average.mean.noise_scale == pytest.approx(true.noise_scale, rel=0.03)


@pytest.mark.parametrize("signal", [0.0, -1.0, NAN])
def test_noise_scale_is_unknown_where_noise_hides_the_signal(signal: float) -> None:
    assert math.isnan(GradientMoments(signal, 2.0).noise_scale)


def test_average_is_of_both_moments_and_forgets() -> None:
    average = GradientAverage()
    assert all(math.isnan(value) for value in average.mean)
    first = average.add(GradientMoments(-1.0, 8.0), decay=0.5)
    assert first.mean == (-1.0, 8.0)  # no pull towards the zeros that it began with
    second = first.add(GradientMoments(5.0, 2.0), decay=0.5)
    assert second.mean == pytest.approx(((-1 / 2 + 5) / 1.5, (8 / 2 + 2) / 1.5))
    # The ratio of the averages, not an average of ratios, the first of which is not even defined.
    assert second.mean.noise_scale == pytest.approx((8 / 2 + 2) / (-1 / 2 + 5))


@pytest.mark.parametrize("moments", [(NAN, 1.0), (1.0, INFINITY)])
def test_what_is_not_finite_does_not_spoil_the_average(moments: tuple[float, float]) -> None:
    average = GradientAverage().add(GradientMoments(1.0, 2.0), decay=0.5)
    assert average.add(GradientMoments(*moments), decay=0.5) == average


def test_churn_is_the_share_of_actions_that_differ() -> None:
    before = torch.tensor([0, 1, 2, 0, 1])
    assert churn_ratio(before, torch.tensor([0, 2, 2, 1, 1])) == 0.4
    assert churn_ratio(before, before) == 0


@pytest.mark.parametrize(
    ("layers", "tau", "ratio"),
    [
        ([[1.0, 1.0, 1.0, 1.0]], 0.025, 0.0),
        ([[0.0, 1.0, 1.0, 2.0]], 0.025, 0.25),
        # The mean is 1: 0.025 is dormant, 0.026 is not.
        ([[0.025, 0.026, 1.0, 2.949]], 0.025, 0.25),
        ([[0.05, 0.09, 1.0, 2.86]], 0.1, 0.5),
        # A layer's mean is its own: in the second all fire as little as each other.
        ([[0.0, 4.0], [0.001, 0.001, 0.001]], 0.025, 0.2),
        ([[0.0, 0.0], [1.0, 1.0]], 0.025, 0.5),  # a layer that is dead
        ([[NAN, 1.0], [1.0, 1.0]], 0.025, NAN),
    ],
)
def test_dormant_units(layers: list[list[float]], tau: float, ratio: float) -> None:
    found = dormant_ratio([torch.tensor(layer, dtype=torch.float64) for layer in layers], tau)
    assert found == pytest.approx(ratio, nan_ok=True)


def test_a_convolutions_units_are_its_channels() -> None:
    images = torch.tensor([[[[1.0, -1.0]], [[0.0, 0.0]]], [[[3.0, 3.0]], [[0.0, 4.0]]]])  # [B=2, C=2, H=1, W=2]
    torch.testing.assert_close(unit_activity(images), torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(unit_activity(images.flatten(2).mean(2)), torch.tensor([1.5, 1.0]))
    # IQN's hidden layer: [B, fractions, F]
    torch.testing.assert_close(unit_activity(images.squeeze(2)), torch.tensor([1.0, 2.0]))


def with_spectrum(values: list[float], num_rows: int, num_columns: int) -> torch.Tensor:
    """A matrix with these singular values in directions at random."""
    generator = np.random.default_rng(0)
    left, right = (np.linalg.qr(generator.normal(size=(size, len(values))))[0] for size in (num_rows, num_columns))
    return torch.from_numpy(left @ np.diag(values) @ right.T).float()


@pytest.mark.parametrize("shape", [(40, 20), (20, 40), (20, 20)])
@pytest.mark.parametrize(
    ("spectrum", "rank"),
    [
        ([5.0], 1),
        ([90.0, 9.5, 0.4, 0.1], 2),
        ([90.0, 8.5, 1.4, 0.1], 3),
        ([1.0] * 20, 20),
        ([98.45, *[0.1] * 15], 7),  # 99.05 of 99.95 is enough, 98.95 is not
    ],
)
def test_effective_rank_of_a_known_spectrum(spectrum: list[float], rank: int, shape: tuple[int, int]) -> None:
    assert effective_rank(with_spectrum(spectrum, *shape), delta=0.01) == rank


@given(st.integers(0, 2**31), st.integers(2, 30), st.integers(2, 30))
def test_effective_rank_is_the_definition(seed: int, num_rows: int, num_columns: int) -> None:
    features = np.random.default_rng(seed).normal(size=(num_rows, num_columns)) ** 3
    values = np.linalg.svd(features, compute_uv=False)
    expected = next(k for k in range(1, len(values) + 1) if values[:k].sum() / values.sum() >= 0.99)
    assert effective_rank(torch.from_numpy(features), delta=0.01) == expected


def test_effective_rank_where_there_is_nothing_to_decompose() -> None:
    assert effective_rank(torch.zeros(4, 3), delta=0.01) == 0
    assert math.isnan(effective_rank(torch.tensor([[1.0, NAN]]), delta=0.01))
