"""A loss that wobbles as this environment's does is no jump, nor is one that falls; a jump is one. So are returns."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sbrl.v1.fleet_pb2 import Episode
from tests.chaos.judge import judge_loss, judge_return
from tests.chaos.watch import Sample

ONE = cast(Any, SimpleNamespace(before=SimpleNamespace(timeline=1), after=SimpleNamespace(timeline=2)))


def looks(chance: random.Random, timeline: int, number: int, scale: float) -> list[Sample]:
    """Two looks at each reading; a reading in two is of a gamble."""
    readings = [scale * (chance.choice((0.04, 0.17)) + chance.uniform(-0.01, 0.01)) for _ in range(number)]
    return [Sample(0.0, timeline, {}, reading) for reading in readings for _ in range(2)]


def verdicts(seed: int, scale: float, before: int = 20, after: int = 20) -> list[bool]:
    chance = random.Random(seed)
    samples = [*looks(chance, 1, before, 1.0), *looks(chance, 2, after, scale)]
    return [verdict.is_good for verdict in judge_loss(ONE, samples)]


@pytest.mark.parametrize("scale", [1.0, 0.43, 0.1])
@pytest.mark.parametrize("after", [15, 20])
def test_a_loss_of_two_kinds_of_batches_goes_on_or_falls(scale: float, after: int) -> None:
    assert all(verdicts(seed, scale, after=after) == [True] for seed in range(300))


@pytest.mark.parametrize(("scale", "before", "after", "share"), [(5.0, 15, 15, 0.8), (5.0, 20, 20, 0.97), (10.0, 15, 15, 1.0)])
def test_a_loss_that_jumps_does_not(scale: float, before: int, after: int, share: float) -> None:
    found = sum(verdicts(seed, scale, before, after) == [False] for seed in range(300))
    assert found >= share * 300


@pytest.mark.parametrize(("before", "after"), [(20, 14), (3, 20), (0, 0)])
def test_too_few_readings_say_nothing(before: int, after: int) -> None:
    assert verdicts(0, 5.0, before, after) == []
    assert list(judge_loss(ONE, [Sample(0.0, 1, {}, None)])) == []


def episodes(chance: random.Random, per_step: float) -> list[Episode]:
    lengths = [chance.randint(5, 40) for _ in range(100)]
    return [Episode(length=length, episode_return=sum(chance.random() < per_step for _ in range(length))) for length in lengths]


@pytest.mark.parametrize(("per_step", "is_good"), [(0.99, True), (1.0, True), (0.9, False), (0.75, False), (0.5, False)])
def test_a_return_is_the_twins_or_better(per_step: float, is_good: bool) -> None:
    for seed in range(200):
        chance = random.Random(seed)
        twin, found = episodes(chance, 0.99), episodes(chance, per_step)
        assert judge_return(found, twin).is_good == is_good
