"""Statistics of studies, against rliable's and AdaStop's own code."""

from __future__ import annotations

import numpy as np
import pytest

from studies.statistics.aggregates import iqm, mean, performance_profile, probability_of_improvement
from studies.statistics.intervals import bootstrap
from studies.statistics.sequential import boundaries, crossed_at, permuted_paths
from tests.oracles.client import Oracle

EXACT = 1e-12


@pytest.mark.parametrize(("seeds", "environments"), [(2, 1), (5, 1), (7, 3), (10, 20)])
def test_aggregates(oracle: Oracle, seeds: int, environments: int) -> None:
    generator = np.random.default_rng(seeds)
    x = generator.normal(size=(seeds, environments)).round(1)  # rounded: with ties
    y = generator.normal(size=(seeds + 1, environments)).round(1)
    thresholds = np.linspace(-1, 1, 9).round(1)
    expected = oracle.ask("statistics.aggregates", x=x, y=y, thresholds=thresholds)
    oracle.compare("iqm", "rliable.aggregate_iqm", iqm(x), expected["iqm"], EXACT)
    found = probability_of_improvement(x, y)
    oracle.compare("probability", "rliable.probability_of_improvement", found, expected["probability_of_improvement"], EXACT)
    oracle.compare("profile", "rliable.score_distributions", performance_profile(x, thresholds), expected["profile"], EXACT)


@pytest.mark.parametrize(("seeds", "environments"), [(15, 1), (5, 6)])
def test_intervals(oracle: Oracle, seeds: int, environments: int) -> None:
    """Both draw at random with their own generators: 4,000 resamples leave an error of about 1 % of the width at each end."""
    x = np.random.default_rng(seeds).normal(size=(seeds, environments)) + 10 * np.arange(environments)
    expected = oracle.ask("statistics.iqm_interval", x=x, resamples=4000)["interval"]
    found = bootstrap(iqm, x, resamples=4000)
    width = expected[1] - expected[0]
    assert np.abs(np.array(found[1:]) - expected).max() < 0.04 * width


@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(4))
def test_boundaries_and_decisions(oracle: Oracle, seed: int, shift: float) -> None:
    """All permutations of three looks at three seeds each: 20 ** 3.

    AdaStop 0.1.3 compares an absolute value with the quantile of a signed one, which spends alpha on either side. So it equals
    our test of absolute values at 2 alpha. It adds up the looks' differences; we take the mean over all seeds.
    """
    generator = np.random.default_rng(seed)
    x, y, group, alpha = generator.normal(size=9) + shift, generator.normal(size=9), 3, 0.1
    expected = oracle.ask("statistics.adastop", x=x, y=y, group=group, alpha=alpha, permutations=20**3 + 1)
    looks = [3, 6, 9]
    paths = np.abs(permuted_paths(x[:, None], y[:, None], looks, mean, permutations=20**3))
    spent = [2 * alpha * n / 9 for n in looks]
    reached = len(expected["boundaries"])
    found = np.array(boundaries(paths, spent)) * [1, 2, 3]
    oracle.compare("boundaries", "AdaStop", found[:reached], expected["boundaries"], 1e-8)
    look = crossed_at(paths, spent)
    assert (look is not None) == (expected["decision"] != 0)
    if look is not None:
        assert look == reached - 1
        assert expected["decision"] == np.sign(x[: looks[look]].mean() - y[: looks[look]].mean())
