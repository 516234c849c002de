"""Resets and annealing as functions of the number of updates, at their boundaries."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from learner.algorithm.schedules import Horizon, HorizonSchedule, ResetSchedule
from sbrl import config


def make_config(agent: dict[str, Any] | None = None, **learner: Any) -> config.Config:
    tree = {"run": {"env_steps": 100_000}, "replay": {"min_size": 2_000}, "agent": agent or {}, "learner": learner}
    return config.build(tree)


def due(schedule: ResetSchedule, updates: int) -> list[int]:
    return [update for update in range(1, updates + 1) if schedule.is_due(update)]


def test_no_resets_by_default() -> None:
    schedule = ResetSchedule.of(make_config())
    assert due(schedule, 100) == []
    assert schedule.updates_since(123_456) == 123_456
    assert schedule.resets(123_456) == 0


def test_resets_without_an_end() -> None:
    schedule = ResetSchedule.of(make_config(reset_period=10))
    assert due(schedule, 35) == [10, 20, 30]
    assert [schedule.resets(updates) for updates in (0, 9, 10, 19, 20)] == [0, 0, 1, 1, 2]
    assert [schedule.updates_since(updates) for updates in (0, 9, 10, 19, 20)] == [0, 9, 0, 9, 0]


@pytest.mark.parametrize(
    ("last_env_step", "expected"),
    [
        (2_000, []),  # before the first update
        (2_005, []),  # reached by the first reset, which follows update 10 at env step 2,000 + 10 / 2
        (2_006, [10]),
        (2_010, [10]),
        (2_011, [10, 20]),
        (1, []),
    ],
)
def test_no_resets_once_env_steps_are_reached(last_env_step: int, expected: list[int]) -> None:
    settings = make_config(reset_period=10, updates_per_step=2, no_resets_after_env_steps=last_env_step)
    schedule = ResetSchedule.of(settings)
    assert due(schedule, 50) == expected
    assert schedule.updates_since(50) == 50 - 10 * len(expected)


def test_bbf_resets_four_times() -> None:
    # Replay ratio 2: env steps 22,000, 42,000, 62,000 and 82,000, as published except for the warm-up.
    schedule = ResetSchedule.of(make_config(reset_period=40_000, updates_per_step=2, no_resets_after_env_steps=100_000))
    assert schedule.limit == 4


def test_a_constant_horizon() -> None:
    schedule = HorizonSchedule.of(make_config({"n_step": 3, "discount": 0.9}, reset_period=5))
    assert {schedule.at(updates) for updates in range(20)} == {Horizon(3, 0.9)}


BBF = {"n_step": 3, "n_step_initial": 10, "discount": 0.997, "discount_initial": 0.97, "anneal_updates": 10_000}


def test_annealing_starts_and_ends_at_its_values_exactly() -> None:
    schedule = HorizonSchedule.of(make_config(BBF))
    assert schedule.at(0) == Horizon(10, 0.97)
    assert schedule.at(9_999).n_step == 3
    assert 0.9969 < schedule.at(9_999).discount < 0.997
    assert schedule.at(10_000) == schedule.at(10**9) == Horizon(3, 0.997)


def test_annealing_is_linear_in_the_logarithm() -> None:
    schedule = HorizonSchedule.of(make_config(BBF))
    for updates in range(0, 10_000, 500):
        done = updates / 10_000
        n_step, discount = schedule.at(updates)
        assert n_step == round(math.exp((1 - done) * math.log(10) + done * math.log(3)))
        assert math.log(1 - discount) == pytest.approx((1 - done) * math.log(0.03) + done * math.log(0.003))
    values = [schedule.at(updates) for updates in range(0, 10_001, 10)]
    assert {n_step for n_step, _ in values} == set(range(3, 11))
    assert (np.diff([n_step for n_step, _ in values]) <= 0).all()
    assert (np.diff([discount for _, discount in values]) > 0).all()


def test_annealing_begins_again_with_each_reset_and_not_after_the_last() -> None:
    settings = make_config(
        BBF | {"anneal_updates": 100}, reset_period=300, updates_per_step=1, no_resets_after_env_steps=2_000 + 601
    )
    schedule = HorizonSchedule.of(settings)
    start, end = schedule.at(0), Horizon(3, 0.997)
    assert [schedule.at(updates) for updates in (299, 300, 399, 400, 599, 600)] == [
        *(end, start, schedule.at(99), end, end, start)
    ]
    assert schedule.at(700) == schedule.at(900) == end


def test_one_may_be_annealed_without_the_other() -> None:
    only_n = HorizonSchedule.of(make_config({"n_step": 1, "n_step_initial": 5, "discount": 0.1}))
    assert only_n.at(0) == Horizon(5, 0.1)
    only_discount = HorizonSchedule.of(make_config({"n_step": 2, "discount": 0.99, "discount_initial": 0.5}))
    assert only_discount.at(0) == Horizon(2, 0.5)
