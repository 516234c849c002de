"""A summary that others wrote is read, or is as if it were not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sbrl.summary import RunSoFar, run_so_far

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
