"""A foreign summary is read, or ignored if it is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sbrl.config import load
from sbrl.monitor.summary import RunSoFar, run_so_far, shortfall
from sbrl.v1.fleet_pb2 import GetStatusResponse, LearnerProgress, ShardProgress

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
    ("collected", "received", "due", "trained", "words"),
    [
        (1000, 1000, 1800, 1800, ""),
        (1000, 980, 1760, 1753, ""),  # less than a batch
        (1000, 1000, 1800, 1791, "only 1,791 of the 1,800 samples"),
        (1000, 1000, 1800, 0, "only 0 of the 1,800 samples"),
        (1000, 10, 0, 0, "only 0 of the 1,800 samples"),  # what was collected never came
        (999, 999, 1798, 1798, "999 of 1,000 env steps"),
    ],
)
def test_a_run_is_complete_when_all_is_collected_and_trained(
    collected: int, received: int, due: int, trained: int, words: str
) -> None:
    progress = LearnerProgress(
        updates=trained // 8, samples_trained=trained, samples_due=due, shards=[ShardProgress(received=received)]
    )
    config = load(overrides=["run.env_steps=1000"])
    missing = shortfall(config, GetStatusResponse(totals={"actor.env_steps": collected}, progress=progress))
    assert words in missing
    assert bool(words) == bool(missing)
