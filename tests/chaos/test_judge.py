"""A loss that wobbles as this environment's does is no jump, and a jump is one."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, cast

from tests.chaos.judge import judge_loss
from tests.chaos.watch import Sample


def looks(chance: random.Random, timeline: int, scale: float) -> list[Sample]:
    """Two looks at each reading; a reading in two is of a gamble."""
    readings = [scale * (chance.choice((0.04, 0.17)) + chance.uniform(-0.01, 0.01)) for _ in range(20)]
    return [Sample(0.0, timeline, {}, reading) for reading in readings for _ in range(2)]


def verdicts(seed: int, scale: float) -> list[bool]:
    chance = random.Random(seed)
    samples = [*looks(chance, 1, 1.0), *looks(chance, 2, scale)]
    one = cast(Any, SimpleNamespace(before=SimpleNamespace(timeline=1), after=SimpleNamespace(timeline=2)))
    return [verdict.is_good for verdict in judge_loss(one, samples)]


def test_a_loss_of_two_kinds_of_batches_goes_on() -> None:
    assert all(verdicts(seed, 1.0) == [True] for seed in range(100))


def test_a_loss_that_jumps_does_not() -> None:
    assert all(verdicts(seed, 5.0) == [False] for seed in range(100))


def test_no_readings_say_nothing() -> None:
    one = cast(Any, SimpleNamespace(before=SimpleNamespace(timeline=1), after=SimpleNamespace(timeline=2)))
    assert list(judge_loss(one, [Sample(0.0, 1, {}, None)])) == []
