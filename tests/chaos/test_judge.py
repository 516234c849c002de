"""Each line of the judge holds for a correct run, and fails for a wrong one.

A loss that fluctuates as in this environment, or falls, is not a jump; a real jump is found. The same goes for returns.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sbrl.config import Config, load
from sbrl.coordination.fleet import RunState
from sbrl.monitor.run_status import RunStatus
from sbrl.v1.episodes_pb2 import Episode
from tests.chaos.judge import (
    compare_loss,
    judge_end,
    judge_flight,
    judge_growth,
    judge_loss,
    judge_ratio,
    judge_resumption,
    judge_return,
)
from tests.chaos.markers import ENV_ID
from tests.chaos.session import Ending, Resumption
from tests.chaos.undisturbed import pairs, power_table
from tests.chaos.watch import Sample

MIN_SIZE, STEPS = 100, 50  # steps between two looks
ENDED, BEGAN = 10.0, 20.0
ONE = cast(Any, SimpleNamespace(ended=ENDED, began=BEGAN))


def config() -> Config:
    """Two samples per insert, 64 transitions ahead, one actor of eight environments on two shards."""
    return load(overrides=[f"env.id={ENV_ID}", f"replay.min_size={MIN_SIZE}", "actors.num_actors=1", "run.env_steps=100000"])


def run_status(env_steps: int = 0, received: int = 0, lost: int = 0, behind: int = 0) -> RunStatus:
    due = 2.0 * max(0, received - MIN_SIZE)
    return RunStatus(
        state=RunState.RUNNING,
        env_steps=env_steps,
        received=received,
        lost=lost,
        in_flight=env_steps - received - lost,
        duplicates=0,
        updates=0,
        samples_trained=int(due) - behind,
        samples_due=due,
        samples_per_insert=None,
        updates_per_step=None,
        shards=(),
        learner_state="training",
        sampling="cached",
        memory_transitions=received,
    )


def course(runs: Sequence[RunStatus], learners: Sequence[int] = ()) -> list[Sample]:
    """Looks half a second apart."""
    numbers = learners or [7] * len(runs)
    return [
        Sample(0.5 * k, run, {"actor.env_steps": run.env_steps}, number, None)
        for k, (run, number) in enumerate(zip(runs, numbers, strict=True))
    ]


def steady(looks: int = 40, **changes: int) -> list[RunStatus]:
    """A run that has 300 steps in flight."""
    return [run_status(300 + STEPS * k, STEPS * k, **changes) for k in range(looks)]


def test_flight_is_bounded_and_nothing_is_received_that_was_not_collected() -> None:
    runs = steady()
    assert judge_flight(course(runs), config()).is_good
    # A learner that went back to its checkpoint receives steps again. They do not count as in flight.
    behind = [run._replace(received=run.received - 1000, in_flight=1300) for run in runs[20:22]]
    assert judge_flight(course([*runs[:20], *behind, *runs[22:]]), config()).is_good
    # An actor's heartbeat comes a moment after the receipt of its steps.
    early = [runs[0], *(run_status(100 + STEPS * k, 150 + STEPS * k) for k in range(1, 40))]
    assert judge_flight(course(early), config()).is_good
    more = [run_status(10_000 + STEPS * k, STEPS * k) for k in range(40)]
    assert not judge_flight(course(more), config()).is_good
    never_collected = [*runs[:20], *(run_status(run.env_steps, run.env_steps + 1000) for run in runs[20:])]
    assert not judge_flight(course(never_collected), config()).is_good


def test_the_learner_is_never_ahead_and_not_far_behind_once_it_has_caught_up() -> None:
    def good(runs: Sequence[RunStatus], learners: Sequence[int] = ()) -> list[bool]:
        return [verdict.is_good for verdict in judge_ratio(course(runs, learners), config())]

    runs = steady(behind=8)
    assert good(runs) == [True, True]
    assert good([run._replace(samples_due=run.samples_due + 2) for run in runs]) == [False, True]
    assert good([*runs, run_status(5000, 4000, behind=-8)]) == [True, False]
    last = run_status(2300, 2300, behind=-4)
    assert good([*runs, last]) == [True, False]
    assert good([*runs, last._replace(state=RunState.COLLECTED)]) == [True, True]
    assert good([*runs, run_status(3000, 2700, behind=400)]) == [True, False]
    # A new learner that must repeat its predecessor's unsaved updates; then one that is further behind than that.
    unsaved = [run_status(2300, 1000), run_status(2300, 2000, behind=2000), run_status(2300, 2000)]
    assert good([*runs, *unsaved], [7] * 40 + [8] * 3) == [True, True]
    idle = [run._replace(samples_trained=min(run.samples_trained, 3000)) for run in steady(100)]
    assert good(idle, [7] * 20 + [8] * 80) == [True, False]


ENDS: dict[str, Any] = {
    **{"env_steps": 5000, "transitions_received": 4990, "transitions_lost": 10, "transitions_in_flight": 0},
    **{"transitions_duplicate": 32, "train_episodes_cut": 0, "samples_due": 9780.0, "samples_trained": 9776},
    "samples_per_insert_achieved": 2.0,
}


@pytest.mark.parametrize(
    ("change", "unknown", "good"),
    [
        ({}, 0, [True, True, True]),
        ({"transitions_in_flight": 1, "transitions_received": 4989}, 0, [False, True, True]),
        ({"transitions_received": 4991}, 0, [False, True, True]),
        ({"transitions_lost": 9, "train_episodes_cut": 1}, 0, [True, True, True]),
        ({}, 32, [True, False, True]),
        ({"samples_trained": 9772}, 0, [True, True, False]),
        ({"samples_trained": 9792}, 0, [True, True, False]),
    ],
)
def test_an_end_is_exact(change: dict[str, Any], unknown: int, good: list[bool]) -> None:
    assert [verdict.is_good for verdict in judge_end(Ending({**ENDS, **change}, unknown), config())] == good


def test_steps_never_fall() -> None:
    runs = steady(3)
    assert judge_growth(course(runs)).is_good
    assert not judge_growth(course([*runs, runs[1]])).is_good


@pytest.mark.parametrize(
    ("from_updates", "steps_after", "stopped", "is_good"),
    [
        (80, 900, None, True),
        (80, 950, None, True),  # from a killed actor: its successor knows its last second
        (70, 900, None, False),
        (0, 900, None, False),
        (80, 890, None, False),
        (80, 950, {"updates": 80, "env_steps": 950}, True),
        (80, 950, {"updates": 81, "env_steps": 950}, False),
        (80, 951, {"updates": 80, "env_steps": 950}, False),
    ],
)
def test_a_resumed_run_goes_on_from_what_was_saved(
    from_updates: int, steps_after: int, stopped: dict[str, int] | None, is_good: bool
) -> None:
    before, after = (
        SimpleNamespace(totals={"actor.env_steps": steps}, progress=SimpleNamespace(updates=90)) for steps in (900, steps_after)
    )
    saved = 0 if from_updates == 0 else 80
    one = Resumption(ENDED, cast(Any, before), saved, BEGAN, cast(Any, after), from_updates, stopped)
    assert judge_resumption(one).is_good == is_good


def looks(chance: random.Random, time: float, number: int, scale: float) -> list[Sample]:
    """Two looks at each reading. Every other reading is of an unpredictable batch."""
    readings = [scale * (chance.choice((0.04, 0.17)) + chance.uniform(-0.01, 0.01)) for _ in range(number)]
    return [Sample(time, run_status(), {}, 7, reading) for reading in readings for _ in range(2)]


def verdicts(seed: int, scale: float, before: int = 20, after: int = 20) -> list[bool]:
    chance = random.Random(seed)
    samples = [*looks(chance, ENDED - 1, before, 1.0), *looks(chance, BEGAN + 1, after, scale)]
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
    assert list(judge_loss(ONE, [Sample(0.0, run_status(), {}, 0, None)])) == []


def episodes(chance: random.Random, per_step: float) -> list[Episode]:
    lengths = [chance.randint(5, 40) for _ in range(100)]
    return [Episode(length=length, episode_return=sum(chance.random() < per_step for _ in range(length))) for length in lengths]


@pytest.mark.parametrize(("per_step", "is_good"), [(0.99, True), (1.0, True), (0.9, False), (0.75, False), (0.5, False)])
def test_a_return_is_the_twins_or_better(per_step: float, is_good: bool) -> None:
    for seed in range(200):
        chance = random.Random(seed)
        twin, found = episodes(chance, 0.99), episodes(chance, per_step)
        assert judge_return(found, twin).is_good == is_good


def test_a_power_table_counts_the_pairs_that_fail() -> None:
    chance = random.Random(0)
    losses = [chance.choice((0.04, 0.17)) for _ in range(90)]
    of = pairs(losses, 20, 2)
    assert [(list(before), list(after)) for before, after in of] == [
        (losses[10:30], losses[30:50]),
        (losses[50:70], losses[70:90]),
    ]
    table = power_table("loss", "multiplied by", of, (1.0, 100.0), lambda a, b, by: compare_loss(a, [by * one for one in b]))
    assert table.splitlines()[2:] == ["| 1 | 0 |", "| 100 | 2 |"]
