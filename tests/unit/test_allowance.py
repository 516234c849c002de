"""The step allowance: a table of cases, and a fleet with late and lost answers."""

import random

import pytest

from services.coordinator.allowance import reserved, step_allowance


@pytest.mark.parametrize(
    ("remaining", "reserved_by_others", "expected"),
    [
        pytest.param(1000, [], 1000, id="alone: everything"),
        pytest.param(1000, [0, 0], 334, id="an equal share, rounded up"),
        pytest.param(1000, [900], 100, id="what another leaves"),
        pytest.param(1000, [1000], 0, id="everything is reserved"),
        pytest.param(10, [8, 8], 0, id="more reserved than remains"),
        pytest.param(0, [], 0, id="nothing remains"),
        pytest.param(-5, [0], 0, id="overshot"),
    ],
)
def test_allowance_is_a_share_within_what_others_leave(remaining, reserved_by_others, expected):
    assert step_allowance(remaining, len(reserved_by_others), sum(reserved_by_others)) == expected


def test_reserved_is_what_may_still_be_stepped():
    assert reserved(step_limit=100, reported=40) == 60
    assert reserved(step_limit=100, reported=107) == 0  # several environments stepped at once passed the limit


@pytest.mark.parametrize("seed", range(20))
def test_late_and_lost_answers_never_overshoot(seed):
    """Between its report and the answer, each actor continues up to its limit. One answer in three is lost."""
    rng = random.Random(seed)
    target, num_actors = 500, 4
    steps, held, reported, limits = ([0] * num_actors for _ in range(4))
    for _ in range(2000):
        i = rng.randrange(num_actors)
        reported[i] = steps[i]
        others = [reserved(limits[j], reported[j]) for j in range(num_actors) if j != i]
        answer = reported[i] + step_allowance(target - sum(reported), len(others), sum(others))
        limits[i] = max(held[i], answer)
        steps[i] += rng.randint(0, max(0, held[i] - steps[i]))
        if rng.random() > 1 / 3:
            held[i] = answer
        assert sum(steps) <= target
    assert sum(steps) == target
