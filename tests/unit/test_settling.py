"""A learner waits for shards that are corrected, and not for one that was gone before."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from learner import settling
from learner.settling import settle
from sbrl.config import load
from sbrl.metrics import LearnerMetrics
from sbrl.ratio_books import DUE, by_shard
from sbrl.v1.fleet_pb2 import GetStatusResponse, Member

CONFIG = load(overrides=["replay.num_shards=2"])


def status(**owed: float) -> GetStatusResponse:
    """Shards are owed what they say by their limiters; the books say 500 of each."""
    members = [
        Member(role="replay", index=int(name[1:]), alive=True, gauges={"samples_owed": value}) for name, value in owed.items()
    ]
    return GetStatusResponse(members=members, totals={by_shard(DUE, shard): 500.0 for shard in range(2)})


def looks(answers: Iterable[GetStatusResponse]) -> int:
    """How often a learner that settles looks at a run that shows this, one answer at a time."""
    answers = list(answers)
    asked = 0

    def ask() -> GetStatusResponse:
        nonlocal asked
        asked += 1
        return answers[min(asked, len(answers)) - 1]

    member = SimpleNamespace(beat_now=lambda: None)
    metrics = LearnerMetrics(CollectorRegistry())
    settle(CONFIG, cast(Any, member), cast(Any, SimpleNamespace(ask=ask)), metrics, threading.Event(), least=8)
    assert metrics.settling._value.get() == 0
    return asked


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "LOOK_SECONDS", 0.001)


def test_limiters_that_are_right_are_not_waited_for() -> None:
    assert looks([status(s0=500, s1=499)]) == 1


def test_a_shard_that_starts_again_to_be_corrected_is_waited_for() -> None:
    assert looks([status(s0=400, s1=400), status(s0=500), status(s0=500), status(s0=500, s1=500)]) == 4


def test_a_shard_that_was_gone_before_is_not() -> None:
    assert looks([status(s0=400), status(), status(s0=500)]) == 3


def test_it_goes_on_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "CORRECTION_SECONDS", 0.05)
    assert looks([status(s0=400, s1=400)]) > 3
