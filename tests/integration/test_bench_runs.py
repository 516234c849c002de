"""A benchmark's runs are made once. After an interruption it continues where it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.runs import BenchRun, run_all
from sbrl.errors import RunError

SETTINGS = (
    *("--preset", "classic-dqn", "run.env_steps=120", "replay.min_size=100", "agent.hidden_size=8"),
    *("evaluator.episodes=1", "evaluator.num_envs=1"),
)


@pytest.mark.timeout(240)
def test_finished_runs_are_kept_and_failed_ones_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = BenchRun(tmp_path / "good", SETTINGS, cost=1.0)
    bad = BenchRun(tmp_path / "bad", (*SETTINGS, "env.id=CartPole-v9"), cost=1.0)
    assert not good.is_finished()
    with pytest.raises(RunError, match=r"1 of 2 runs failed: .*bad\.log"):
        run_all([bad, good], jobs=2)
    assert "CartPole-v9" in bad.log.read_text(encoding="utf-8")
    assert good.is_finished()
    assert not bad.is_finished()
    # A run by another command, or an incomplete one, does not count.
    assert not good._replace(arguments=(*SETTINGS, "run.seed=1")).is_finished()

    summary = good.directory / "summary.json"
    made = summary.stat().st_mtime_ns
    capsys.readouterr()
    run_all([good], jobs=1)
    assert summary.stat().st_mtime_ns == made
    assert "1 runs, 1 of them finished before" in capsys.readouterr().out
    summary.write_text(summary.read_text(encoding="utf-8").replace('"complete": true', '"complete": false'), encoding="utf-8")
    assert not good.is_finished()
