"""The verdict's rule by cases, and its error rates by simulation. scripts/verdict_rates.py simulates more."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from scripts.verdict_rates import Effect, Setup, simulate
from studies.statistics.aggregates import Floats
from studies.statistics.intervals import Interval
from studies.verdict import (
    Answer,
    CandidateResult,
    HorizonResult,
    Rule,
    _answer,
    best_adopted,
    judge,
    overall,
    should_go_back,
)

TEN = Rule(planned_seeds=10, looks=(10,))
NOISE = np.linspace(-0.1, 0.1, 10)[:, None]


def scores(*by_horizon: float) -> Floats:
    """float64[H, 10, 1]: ten seeds around a value for each horizon, in an order that differs with the horizon."""
    return np.stack([value + np.roll(NOISE, shift, axis=0) for shift, value in enumerate(by_horizon)])


def answers(candidates: Mapping[str, Floats], rule: Rule = TEN) -> dict[str, Answer]:
    found = judge(scores(1, 1, 1), candidates, rule, permutations=400, levels=(), resamples=200)
    return {name: result.answer for name, result in found.items()}


@pytest.mark.parametrize(
    ("candidate", "answer"),
    [
        ((1, 2, 2), "adopt"),
        ((2, 2, 1), "not shown"),  # the last horizon counts
        ((2, 1, 2), "not shown"),  # and the one before
        ((2, 0.5, 0.5), "keep"),
        ((1, 0.5, 2), "not shown"),
        ((1, 1, 1), "not shown"),  # so few seeds cannot exclude a gain of 5 %
    ],
)
def test_both_of_the_last_two_horizons_have_to_agree(candidate: tuple[float, ...], answer: str):
    assert answers({"small": scores(*candidate)}) == {"small": answer}


def test_a_gain_that_is_too_small_to_be_worth_it_is_kept_out():
    rule = Rule(planned_seeds=10, looks=(10,), smallest_gain=0.5)
    assert answers({"small": scores(1.2, 1.2, 1.2)}, rule) == {"small": "keep"}  # though it is better without doubt
    assert answers({"small": scores(1.2, 1.2, 1.2)}) == {"small": "adopt"}


def test_the_best_of_several_is_taken():
    found = judge(scores(1, 1), {"a": scores(2, 2), "b": scores(3, 3), "c": scores(0, 0)}, TEN, 400, (), 200)
    assert (overall(found), best_adopted(found)) == ("adopt", "b")
    assert found["c"].answer == "keep"
    assert overall({"c": found["c"]}) == "keep"
    assert best_adopted({"c": found["c"]}) is None
    assert overall({"c": found["c"], "d": CandidateResult("not shown", 1.0, 1.0, ())}) == "not shown"


def test_many_candidates_raise_the_bar():
    """Of 252 permutations of five seeds, two have the highest difference: p = 2 / 252 survives a correction for 6, not 7."""
    rule = Rule(planned_seeds=5, looks=(5,))
    baseline = scores(1, 1)[:, :5]
    for number, answer in ((6, "adopt"), (7, "not shown")):
        candidates = {f"same {index}": baseline for index in range(number - 1)} | {"small": scores(2, 2)[:, :5]}
        assert judge(baseline, candidates, rule, 400, (), 200)["small"].answer == answer


def test_a_look_comes_only_when_its_seeds_are_in():
    rule = Rule(planned_seeds=10, looks=(5, 10))
    baseline, candidate = scores(1, 1), scores(2, 2)
    assert judge(baseline[:, :5], {"small": candidate[:, :5]}, rule, 400, (), 200)["small"].answer == "adopt"
    # Seven seeds count as five: seeds after the last look wait for the next one.
    seven = candidate[:, :7].copy()
    seven[:, 5:] = -100
    assert judge(baseline[:, :7], {"small": seven}, rule, 400, (), 200)["small"].answer == "adopt"
    with pytest.raises(ValueError, match="first look"):
        judge(baseline[:, :4], {"small": candidate[:, :4]}, rule)
    with pytest.raises(ValueError, match="two horizons"):
        judge(baseline[:1], {"small": candidate[:1]}, rule)
    with pytest.raises(ValueError, match="same horizons"):
        judge(baseline, {"small": candidate[:, :9]}, rule)


def test_going_back_takes_two_checkpoints_in_a_row():
    good, bad = Interval(1, 0.1, 2), Interval(1, 0.0, 2)
    assert not should_go_back([bad])
    assert not should_go_back([bad, good])
    assert not should_go_back([bad, bad, good])
    assert should_go_back([good, bad, bad])


def test_an_interval_at_zero_twice_forbids_what_the_tests_would_allow():
    unsure = HorizonResult(2.0, 1.0, Interval(1.0, -0.1, 2.0), 0.01, 1.0)
    sure = HorizonResult(2.0, 1.0, Interval(1.0, 0.1, 2.0), 0.01, 1.0)
    assert _answer(0.01, 1.0, [unsure, unsure], 0.05) == "not shown"
    assert _answer(0.01, 1.0, [unsure, sure], 0.05) == "adopt"


@pytest.mark.parametrize("arms", [1, 4])
@pytest.mark.parametrize("looks", [(10,), (5, 10)], ids=["one look", "two looks"])
def test_a_null_effect_is_adopted_in_five_of_a_hundred_studies_at_most(looks: tuple[int, ...], arms: int):
    """The seed is fixed. 150 studies have a standard error of 1.8 %, and the bound allows 3 of these."""
    studies = 150
    adopted = simulate(Setup("skewed", seeds=10, looks=looks, arms=arms), Effect(0.0), studies, permutations=199).adopt
    assert adopted <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)


def test_a_gain_of_the_size_of_the_papers_is_found_and_an_equal_loss_refused():
    looks = (5, 10)
    assert simulate(Setup("normal", seeds=10, looks=looks, arms=2), Effect(0.7), 40, permutations=199).adopt > 0.9
    assert simulate(Setup("normal", seeds=10, looks=looks), Effect(-0.7), 40, permutations=199).keep > 0.9
