"""`sbrl train --serial`: bit-reproducible from its seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.smoke.conftest import FAST, sbrl

pytestmark = pytest.mark.timeout(300)


def serial(directory: Path, *arguments: str) -> dict[str, Any]:
    done = sbrl("train", "--serial", "--run-dir", str(directory), *arguments, timeout=120)
    assert done.returncode == 0, done.stderr
    summary: dict[str, Any] = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    return summary


@pytest.mark.parametrize(
    "settings",
    [
        (*FAST, "run.env_steps=1200", "replay.min_size=200", "replay.capacity=600"),
        ("env.id=ALE/Breakout-v5", "run.env_steps=480", "replay.min_size=200", "agent.hidden_size=16", "evaluator.episodes=1"),
    ],
    ids=["cartpole-with-eviction", "breakout"],
)
def test_one_seed_gives_one_run(tmp_path: Path, settings: tuple[str, ...]) -> None:
    limits = ("env.max_episode_steps=200", "evaluator.num_envs=1")
    first, second = (serial(tmp_path / name, *settings, *limits, "run.seed=5") for name in ("first", "second"))
    other = serial(tmp_path / "other", *settings, *limits, "run.seed=6")
    assert first["updates"] > 50
    assert first["samples_per_insert_achieved"] == pytest.approx(2.0, rel=0.01)
    for digest in ("losses_sha256", "weights_sha256"):
        assert first[digest] == second[digest]
        assert first[digest] != other[digest]
    assert first["eval_return_mean"] == second["eval_return_mean"]
