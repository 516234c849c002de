"""A summary that others wrote is read, or is as if it were not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sbrl.config import load
from sbrl.summary import RunSoFar, run_so_far, shortfall
from sbrl.v1.fleet_pb2 import GetStatusResponse

WRONG: list[Any] = [None, -1, float("inf"), float("nan"), "x", [], {}]
WHOLE = {"complete": True, "env_steps": 20_000, "wall_seconds": 12.5}


def test_what_earlier_sessions_left_is_read(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text(json.dumps({**WHOLE, "eval_return_mean": None}))
    assert run_so_far(path) == RunSoFar(True, 20_000, 12.5)


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{", "{}", "null"),
        *(json.dumps({**WHOLE, name: value}) for name in ("env_steps", "wall_seconds") for value in WRONG),
    ],
)
def test_anything_else_is_nothing_so_far(tmp_path: Path, content: str) -> None:
    path = tmp_path / "summary.json"
    path.write_text(content)
    assert run_so_far(path) == RunSoFar()


@pytest.mark.parametrize(
    ("collected", "due", "trained", "words"),
    [
        (1000, 4000, 4000, ""),
        (1000, 4000, 3961, ""),
        (1000, 4000, 3959, "only 3,959 of the 4,000 samples"),
        (1000, 4000, 0, "only 0 of the 4,000 samples"),
        (1000, 40, 33, ""),  # less than a batch
        (999, 4000, 4000, "999 of 1,000 env steps"),
        (1000, 0, 0, "no update was made"),
    ],
)
def test_a_run_is_complete_when_all_is_collected_and_trained(collected: int, due: int, trained: int, words: str) -> None:
    totals = {
        "actor.env_steps": collected,
        "replay.samples_due": due,
        "learner.samples_trained": trained,
        "learner.updates": trained // 8,
    }
    missing = shortfall(load(overrides=["run.env_steps=1000"]), GetStatusResponse(totals=totals))
    assert words in missing
    assert bool(words) == bool(missing)
