"""`sbrl report` over run directories that `sbrl train` has made."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.smoke.conftest import FAST, sbrl

pytestmark = pytest.mark.timeout(600)  # seconds on an idle machine, minutes on a busy one


def test_runs_that_nobody_planned_are_grouped_by_their_settings(tmp_path: Path) -> None:
    runs = []
    for batch, seed in ((8, 1), (8, 2), (32, 1), (32, 2)):
        runs.append(tmp_path / f"run-{batch}-{seed}")
        settings = (*FAST, "run.env_steps=800", "replay.min_size=200", f"learner.batch_size={batch}", f"run.seed={seed}")
        done = sbrl("train", "--serial", "--run-dir", str(runs[-1]), *settings, timeout=240)
        assert done.returncode == 0, done.stderr

    report = sbrl("report", *map(str, runs), "--out", str(tmp_path / "report"), timeout=240)
    assert report.returncode == 0, report.stderr
    assert "Not shown: keep batch_size=32 for now" in report.stdout
    assert "There are 2 seeds; a verdict needs 5" in report.stdout
    rows = list(csv.DictReader((tmp_path / "report" / "runs.csv").open()))
    assert sorted((row["arm"], row["seed"]) for row in rows) == [
        *(("batch_size=32", "1"), ("batch_size=32", "2"), ("batch_size=8", "1"), ("batch_size=8", "2"))
    ]
    assert all(row["status"] == "complete" and float(row["core_seconds"]) > 0 for row in rows)
    text = (tmp_path / "report" / "report.html").read_text()
    assert "differ in more than is studied" not in text
    assert text.count("<svg") == 4

    (runs[0] / "episodes.csv").write_text("not a table\n")
    damaged = sbrl("report", *map(str, runs), timeout=240)
    assert damaged.returncode == 1
    assert str(runs[0] / "episodes.csv") in damaged.stderr
    assert len(damaged.stderr.splitlines()) == 1
