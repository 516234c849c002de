"""The group-sequential permutation test: paths and boundaries by hand, its level and monotonicity by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from studies.statistics.aggregates import Floats, mean
from studies.statistics.sequential import boundaries, crossed_at, holm, permuted_paths, sequential_p


def column(*scores: float) -> Floats:
    return np.array(scores, np.float64)[:, None]


def test_paths_are_all_ways_to_deal_the_runs_and_what_was_seen_comes_first():
    paths = permuted_paths(column(5, 6), column(1, 2), [2], mean)
    assert paths.shape == (6, 1)
    assert paths[0, 0] == 4
    assert sorted(paths[:, 0].tolist()) == [-4, -1, 0, 0, 1, 4]


def test_runs_are_exchanged_within_a_group_and_an_environment_only():
    candidate, baseline = np.array([[1.0, 10.0], [2.0, 20.0]]), np.array([[3.0, 30.0], [4.0, 40.0]])
    paths = permuted_paths(candidate, baseline, [1, 2], mean)
    assert len(paths) == 2**4  # each environment's pair in each of two groups
    assert set(paths[:, 0].round(6).tolist()) == {-11, -9, 9, 11}  # half of +-2 +-20


def test_many_permutations_are_drawn_and_the_same_ones_again():
    generator = np.random.default_rng(0)
    candidate, baseline = generator.normal(size=(2, 12, 2))
    paths = permuted_paths(candidate, baseline, [6, 12], mean, permutations=400)
    assert paths.shape == (400, 2)
    assert paths[0, 1] == pytest.approx(candidate.mean() - baseline.mean())
    assert (paths == permuted_paths(candidate, baseline, [6, 12], mean, permutations=400)).all()


def test_a_look_has_the_same_paths_again_at_a_later_one():
    """Five seeds have 252 permutations, all of which would be made; ten in two groups have too many. The plan decides."""
    candidate, baseline = np.random.default_rng(0).normal(size=(2, 10, 1))
    early = permuted_paths(candidate[:5], baseline[:5], [5], permutations=400, planned=[5, 10])
    later = permuted_paths(candidate, baseline, [5, 10], permutations=400, planned=[5, 10])
    assert early[:, 0] == pytest.approx(later[:, 0], abs=1e-6)
    assert len(permuted_paths(candidate[:5], baseline[:5], [5], permutations=400)) == 252


def test_boundaries_spend_what_may_be_spent_by_each_look():
    # 20 paths. The first look may spend one of them, and the second look one of the rest.
    paths = np.stack([np.arange(20.0), np.r_[np.arange(19.0), 100.0]], axis=1)
    assert boundaries(paths, [0.05, 0.10]) == (18.0, 17.0)  # path 19 goes at the first look, though it is highest at the second
    assert boundaries(paths, [0.0, 0.10]) == (19.0, 17.0)


@pytest.mark.parametrize(("seen", "look"), [((19.5, 0.0), 0), ((0.0, 18.5), 1), ((18.0, 17.0), None)])
def test_a_decision_comes_at_the_look_whose_boundary_is_crossed(seen: tuple[float, float], look: int | None):
    paths = np.stack([np.r_[seen[0], np.arange(19.0)], np.r_[seen[1], np.arange(19.0)]], axis=1)
    assert crossed_at(paths, [0.05, 0.10]) == look


def test_ties_are_never_decided_by_rounding():
    same = column(0.1, 0.2, 0.3, 0.4, 0.7)
    paths = permuted_paths(same, same[::-1], [5], mean)
    assert (paths[:, 0] >= 0).mean() > 0.5
    assert sequential_p(paths, [1.0], [0.05, 0.5]) == 1.0


def test_one_look_has_the_p_value_of_a_permutation_test():
    paths = permuted_paths(column(6, 7, 8, 9, 10), column(1, 2, 3, 4, 5), [5], mean)
    assert sequential_p(paths, [1.0], [count / 252 for count in range(1, 30)]) == pytest.approx(1 / 252)
    paths = permuted_paths(column(5, 7, 8, 9, 10), column(1, 2, 3, 4, 6), [5], mean)
    assert sequential_p(paths, [1.0], [count / 252 for count in range(1, 30)]) == pytest.approx(2 / 252)


def test_three_seeds_show_nothing_below_one_in_twenty():
    paths = permuted_paths(column(8, 9, 10), column(1, 2, 3), [3], mean)
    assert crossed_at(paths, [0.05]) == 0
    assert crossed_at(paths, [0.049]) is None


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.6, 0.7]) == (1.0, 1.0)
    assert holm([]) == ()


@pytest.mark.parametrize("draw", ["normal", "skewed", "all or nothing"])
def test_looking_five_times_costs_nothing(draw: str):
    generator = np.random.default_rng(7)
    make = {
        "normal": lambda: generator.normal(size=(10, 1)),
        "skewed": lambda: generator.lognormal(sigma=1.5, size=(10, 1)),
        "all or nothing": lambda: generator.normal(size=(10, 1)) + 5 * (generator.random((10, 1)) < 0.5),
    }[draw]
    looks, studies, alpha = [2, 4, 6, 8, 10], 400, 0.05
    shown = sum(
        crossed_at(permuted_paths(make(), make(), looks, permutations=200), [alpha * n / 10 for n in looks]) is not None
        for _ in range(studies)
    )
    assert shown <= alpha * studies + 3 * math.sqrt(
        studies * alpha * (1 - alpha)
    )  # 33: of 400 studies with the same seed always
    assert shown > 0  # the level is really spent


def test_looking_often_without_spending_would_not_hold_the_level():
    """Shows that the simulation above can fail: without their own boundaries, the same looks err far more often."""
    generator, looks = np.random.default_rng(7), [2, 4, 6, 8, 10]
    shown = 0
    for _ in range(400):
        paths = permuted_paths(generator.normal(size=(10, 1)), generator.normal(size=(10, 1)), looks, permutations=200)
        shown += any(crossed_at(paths[:, [look]], [0.05]) is not None for look in range(5))
    assert shown > 33
