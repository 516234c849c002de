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


def test_one_seed_gives_one_run_and_another_seed_another(tmp_path: Path) -> None:
    settings = (*FAST, "run.env_steps=800", "replay.min_size=200", "replay.capacity=400")  # half of it is evicted
    first, second = (serial(tmp_path / name, *settings, "run.seed=5") for name in ("first", "second"))
    other = serial(tmp_path / "other", *settings, "run.seed=6")
    assert first["updates"] > 100
    assert first["samples_per_insert_achieved"] == pytest.approx(2.0, rel=0.01)
    for digest in ("losses_sha256", "weights_sha256"):
        assert first[digest] == second[digest]
        assert first[digest] != other[digest]
    assert first["eval_return_mean"] == second["eval_return_mean"]


def test_an_atari_run_is_reproducible(tmp_path: Path) -> None:
    settings = (
        *("env.id=ALE/Breakout-v5", "env.max_episode_steps=100", "run.env_steps=320", "replay.min_size=160"),
        *("agent.hidden_size=16", "agent.num_quantiles=16", "evaluator.episodes=1", "evaluator.num_envs=1"),
    )
    first, second = (serial(tmp_path / name, *settings) for name in ("first", "second"))
    assert first["updates"] >= 40
    for digest in ("losses_sha256", "weights_sha256"):
        assert first[digest] == second[digest]


def test_environments_that_all_end_at_once_do_not_block(tmp_path: Path) -> None:
    # MountainCar truncates after 200 steps, all eight at once: the last n steps of each become items in one round.
    summary = serial(
        tmp_path / "run",
        *("env.id=MountainCar-v0", "run.env_steps=1700", "replay.min_size=200", "agent.n_step=8"),
        *("agent.hidden_size=16", "agent.num_quantiles=8", "evaluator.episodes=1", "evaluator.num_envs=1"),
    )
    assert summary["transitions_inserted"] == summary["env_steps"]
