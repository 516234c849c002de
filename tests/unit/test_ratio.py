"""The learner's ratio: never ahead, never further behind than allowed, exact at the end."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.ratio import Ratio, RatioSettings
from sbrl.config import load


@st.composite
def ratios(draw: st.DrawFn) -> RatioSettings:
    batch_size = draw(st.sampled_from([1, 8, 32, 256]))
    updates_per_step = draw(st.sampled_from([1 / 64, 0.25, 0.3, 1.0, 8.0]))
    ahead = max(64.0, 2 / updates_per_step)
    return RatioSettings(draw(st.integers(1, 500)), batch_size * updates_per_step, batch_size, ahead)


@given(ratios(), st.lists(st.integers(1, 32), min_size=5, max_size=60))
@settings(max_examples=100, deadline=None)
def test_it_is_never_ahead_and_never_further_behind_than_it_may_be(wanted: RatioSettings, segments: list[int]) -> None:
    ratio = Ratio(wanted)
    for steps in segments:
        while not ratio.may_receive:
            assert ratio.updates_due  # otherwise both sides would wait for ever
            ratio.train()
        ratio.receive(steps)
        assert ratio.trained <= ratio.due
        assert math.isclose(ratio.due, max(0, ratio.received - wanted.min_size) * wanted.samples_per_insert, abs_tol=1e-6)
        assert (ratio.due - ratio.trained) / wanted.samples_per_insert <= wanted.ahead + steps + 1e-6
    while ratio.updates_due or ratio.last_update_due:
        ratio.train()
    assert abs(ratio.due - ratio.trained) <= wanted.batch_size / 2 + 1e-6


def test_what_is_received_is_worth_what_the_ratio_is_at_that_time() -> None:
    first = RatioSettings(min_size=100, samples_per_insert=2.0, batch_size=8, ahead=64)
    ratio = Ratio(first)
    ratio.receive(150)
    assert ratio.due == 100
    for _ in range(ratio.updates_due):
        ratio.train()
    later = Ratio.restored(first._replace(samples_per_insert=8.0, batch_size=32), ratio.state())
    assert (later.due, later.trained, later.received) == (100, 96, 150)
    later.receive(10)
    assert later.due == 180
    assert later.updates_due == 2


def test_achieved_counts_from_the_end_of_the_warm_up() -> None:
    ratio = Ratio(RatioSettings(min_size=100, samples_per_insert=2.0, batch_size=8, ahead=64))
    ratio.receive(100)
    assert (ratio.achieved, ratio.due, ratio.updates_due) == (0.0, 0.0, 0)
    ratio.receive(40)
    for _ in range(10):
        ratio.train()
    assert ratio.achieved == 2.0


@pytest.mark.parametrize(
    ("overrides", "ahead"),
    [([], 64.0), (["learner.updates_per_step=0.015625"], 128.0), (["replay.ahead=5000"], 5000.0)],
)
def test_how_far_the_learner_may_be_behind(overrides: list[str], ahead: float) -> None:
    assert math.isclose(RatioSettings.of(load(None, None, overrides)).ahead, ahead)
