"""Statistics of studies against values computed by hand. tests/oracles compares with rliable and AdaStop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from studies.statistics.aggregates import Floats, iqm, performance_profile, probability_of_improvement, rank_correlation
from studies.statistics.intervals import bootstrap, curve_intervals, iqm_difference, profile_intervals
from studies.statistics.power import IQM_VARIANCE, detectable_difference, power, seeds_needed
from studies.statistics.scaling import common_threshold, data_to_threshold, fit_best
from studies.statistics.sensitivity import sensitivity


def column(*scores: float) -> Floats:
    return np.array(scores, np.float64)[:, None]


def test_iqm_leaves_a_quarter_out_at_either_end():
    assert iqm(column(100, 1, 2, 3)) == 2.5  # 2 and 3 are left
    assert iqm(column(1, 2, 3, 4, 90)) == 3.0  # int(5 / 4) = 1 at either end
    assert iqm(np.array([[1.0, 10.0], [2.0, 20.0]])) == 6.0  # over both environments: 2 and 10
    assert iqm(np.stack([column(1, 2, 3, 4), column(5, 6, 7, 8)])).tolist() == [2.5, 6.5]  # leading axes stay


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (4, 1), (5, 3), (10, 7)])
def test_iqm_is_scipys_trimmed_mean(shape: tuple[int, int]):
    scores = np.random.default_rng(0).lognormal(size=(6, *shape))
    assert iqm(scores) == pytest.approx(stats.trim_mean(scores.reshape(6, -1), 0.25, axis=1), rel=1e-12)


def test_probability_of_improvement_counts_ties_half_and_environments_alike():
    assert probability_of_improvement(column(1, 3), column(2, 2)) == 0.5
    assert probability_of_improvement(column(3), column(1, 3)) == 0.75
    x, y = np.array([[1.0, 5.0], [2.0, 6.0]]), np.array([[0.0, 7.0], [0.0, 7.0]])
    assert probability_of_improvement(x, y) == 0.5  # always better in one, never in the other


def test_rank_correlation_is_scipys_over_the_arms_means():
    x, y = np.random.default_rng(0).normal(size=(2, 4, 6))
    assert rank_correlation(x, y) == pytest.approx(stats.spearmanr(x.mean(0), y.mean(0)).statistic)
    assert rank_correlation(x, np.exp(x.mean(0, keepdims=True)).repeat(4, axis=0)) == pytest.approx(1)
    assert rank_correlation(x, np.ones((4, 6))) == 0


def test_a_profile_is_the_share_of_runs_above_each_threshold():
    assert performance_profile(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([0.0, 1.0, 2.5, 4.0])).tolist() == [1, 0.75, 0.5, 0]


def test_an_interval_of_two_seeds_is_as_wide_as_they_are():
    # Four equally likely resamples: (0, 0), (0, 1), (1, 0), (1, 1), so 2.5 % and 97.5 % are the seeds themselves.
    assert bootstrap(iqm, column(0, 1)) == (0.5, 0, 1)


def test_pairs_are_drawn_together():
    x = column(1, 5, 9, 20)
    paired, free = (bootstrap(iqm_difference, x + 2, x, paired=paired) for paired in (True, False))
    assert (paired.low, paired.high) == pytest.approx((2, 2))  # seeds differ, their differences do not
    assert free.low < 0 < 4 < free.high


def test_environments_are_strata():
    # Seeds are equal within each environment, so resampling changes nothing, whatever the differences between environments.
    scores = np.tile(np.array([[0.0, 10.0, 50.0, 90.0]]), (3, 1))
    assert bootstrap(iqm, scores) == (30, 30, 30)


def test_intervals_of_curves_and_profiles_are_those_of_each_point():
    scores = np.random.default_rng(0).normal(size=(5, 2, 3))
    assert curve_intervals(scores)[1] == bootstrap(iqm, scores[:, :, 1])
    (interval,) = profile_intervals(scores[:, :, 0], np.array([0.0]))
    assert interval.estimate == (scores[:, :, 0] > 0).mean()
    assert interval.low <= interval.estimate <= interval.high


@pytest.mark.parametrize(
    ("samples", "paired", "words"),
    [
        ((column(1),), False, "two seeds"),
        ((column(1, 2), column(1)), False, "two seeds"),
        ((column(1, 2), column(1, 2, 3)), True, "pairs"),
    ],
)
def test_what_says_nothing_of_other_seeds_has_no_interval(samples: tuple[Floats, ...], paired: bool, words: str):
    with pytest.raises(ValueError, match=words):
        bootstrap(iqm_difference, *samples, paired=paired)


def test_power_is_alpha_without_a_difference_and_that_of_a_t_test_for_means():
    assert power(0.0, 1.0, 10) == pytest.approx(0.05)
    assert power(0.0, 1.0, 10, arms=4) == pytest.approx(0.0125)
    # Cohen 1988, table 2.3.2 (one-sided 5 %): d = 0.8, n = 20 has 0.80. An IQM has a larger variance than a mean.
    assert power(0.8 * math.sqrt(IQM_VARIANCE), 1.0, 20) == pytest.approx(0.80, abs=0.005)


def test_what_can_be_detected_and_how_many_seeds_it_takes_are_one_another():
    difference = detectable_difference(2.0, 12, environments=3, arms=2)
    assert power(difference, 2.0, 12, 3, 2) == pytest.approx(0.8)
    assert seeds_needed(difference * 1.001, 2.0, 3, 2) == 12
    assert seeds_needed(difference * 0.999, 2.0, 3, 2) == 13
    assert seeds_needed(1e-6, 1.0) is None
    assert seeds_needed(-1.0, 1.0) is None
    with pytest.raises(ValueError, match="two seeds"):
        power(1.0, 1.0, 1)


def test_the_variance_of_an_iqm_of_normal_scores_is_as_stated():
    draws = np.random.default_rng(0).normal(size=(5000, 100, 1))
    assert iqm(draws).var() / draws.mean((1, 2)).var() == pytest.approx(IQM_VARIANCE, rel=0.05)


def test_sensitivity_is_read_off_a_seed_that_did_not_choose_the_best():
    scores = np.array([[1, 1, 1, 1], [5, 5, 5, 7], [4, 4, 4, 4], [0, 0, 0, 0]], np.float64)[:, :, None]
    found = sensitivity([1e-4, 2e-4, 4e-4, 1.0], scores)
    assert found.best == 2e-4
    assert found.below is not None
    assert found.above is not None
    assert found.below.estimate == 4.5  # mean of 4, 4, 4, 6
    assert found.above.estimate == 1.5
    assert sensitivity([1.0, 2e-4, 4e-4, 1e-4], scores[[3, 1, 2, 0]]) == found  # in any order
    assert sensitivity([1.0, 3.0], scores[:2]).below is None  # the grid has no such value


def test_luck_of_the_winner_is_no_sensitivity():
    # Four equal values: chosen and judged on the same seeds, the best one would seem better than its neighbours.
    losses = []
    for seed in range(200):
        found = sensitivity([1, 2, 4, 8], np.random.default_rng(seed).normal(size=(4, 5, 1)))
        losses += [one.estimate for one in (found.below, found.above) if one is not None]
    assert abs(np.mean(losses)) < 3 * np.std(losses) / math.sqrt(len(losses))


def test_data_to_a_threshold_is_read_off_a_monotone_fit():
    steps, returns = np.array([10.0, 20, 30, 40]), np.array([0.0, 4.0, 2.0, 9.0])  # fits: 0, 3, 3, 9
    assert data_to_threshold(steps, returns, 3.0) == 20
    assert data_to_threshold(steps, returns, 6.0) == 35
    assert data_to_threshold(steps, returns, 0.0) == 10
    assert data_to_threshold(steps, returns, 9.5) == math.inf
    assert common_threshold([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]) == 2  # nine of ten reach it, of 3 only eight of ten
    assert common_threshold([5.0, 1.0]) == 1


def test_a_power_law_comes_out_of_data_that_follow_it():
    x, values = [0.25, 1.0, 4.0], [4.0, 8.0, 16.0, 32.0, 64.0]
    best = 16 * np.array(x) ** -0.5  # 32, 16, 8
    needed = 1e5 * (1 + np.abs(np.log(np.array(values)[None, :, None] / best[:, None, None])))
    needed = needed * np.random.default_rng(1).uniform(0.95, 1.05, size=(3, 5, 6))
    fit = fit_best(x, values, needed)
    assert fit.best == pytest.approx((32, 16, 8))
    assert fit.exponent == pytest.approx((-0.5, -0.5, -0.5))
    assert fit.coefficient.estimate == pytest.approx(16)


def test_a_power_law_takes_seeds_that_never_arrive_but_not_a_half_of_them():
    needed = np.array([[[1, 2, math.inf], [5, 6, 7]], [[9, 9, math.inf], [3, 3, 3]]])
    fit = fit_best([1, 2], [8, 16], needed)
    assert fit.best[1] == pytest.approx(16)
    assert 8 <= fit.best[0] < 16  # with two of three seeds the first value wins, with one of them not
    assert fit.exponent.low < fit.exponent.high
    needed[0] = [[1, math.inf, math.inf], [math.inf, math.inf, 5]]
    with pytest.raises(ValueError, match="half of the seeds"):
        fit_best([1, 2], [8, 16], needed)
    with pytest.raises(ValueError, match="above 0"):
        fit_best([0, 2], [8, 16], needed)
