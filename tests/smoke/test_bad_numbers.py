"""A run whose environment returns a bad value in the middle."""

from __future__ import annotations

from pathlib import Path

import pytest

from learner.checkpoint import CheckpointStore
from sbrl.storage.run_directory import RunDirectory
from tests import bad_env
from tests.smoke.conftest import FAST, sbrl

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[2]


def test_a_bad_value_ends_the_run_with_one_line_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    directory = RunDirectory(tmp_path / "run")
    settings = (*FAST, f"env.id={bad_env.ENV_ID}", "run.env_steps=5000", "replay.min_size=200", "actors.num_actors=1")
    stopped = sbrl("train", "--run-dir", str(directory.path), *settings, timeout=120)
    assert stopped.returncode == 1, stopped.stderr
    (error,) = stopped.stderr.splitlines()
    assert error.startswith(f"sbrl: error: actor-0: env.id={bad_env.ENV_ID} returned reward=nan")
    assert "(in step 1 of an episode)" in error
    assert "env.on_bad_value=drop_episode" in error
    assert "starting it again" not in stopped.stdout
    saved = CheckpointStore(directory.learner_checkpoints, keep=1).load_newest()
    assert saved is not None  # the training until then is not lost
    assert saved.update.updates > 0
