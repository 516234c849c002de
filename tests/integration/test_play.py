"""`sbrl eval` and `sbrl play` on run directories with a checkpoint, as a user runs them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageSequence

from learner.algorithm.update import make_update_step
from learner.checkpoint import CheckpointStore, SavedLearner, capture_random
from sbrl import config
from sbrl.envs.make import make_spec
from sbrl.errors import RunError, UsageError
from sbrl.storage.run_directory import RunDirectory
from sbrl.v1.episodes_pb2 import Evaluation
from services.evaluator import evaluate, play

CARTPOLE = {"env": {"id": "CartPole-v1"}, "evaluator": {"episodes": 3, "num_envs": 2}}
PONG = {"env": {"id": "ALE/Pong-v5", "frame_size": 36}, "evaluator": {"episodes": 1}}


def make_run(path: Path, settings: Mapping[str, Any], checkpoints: tuple[int, ...] = (40,)) -> RunDirectory:
    """A run directory with small untrained checkpoints of these updates."""
    run_directory = RunDirectory(path)
    path.mkdir()
    run_config = config.build(settings, {"agent": {"hidden_size": 8, "num_quantiles": 3}})
    run_directory.config.write_text(config.dump(run_config, metadata={"sbrl": "0"}))
    update = make_update_step(run_config, make_spec(run_config.env)).state()
    store = CheckpointStore(run_directory.learner_checkpoints, keep=3)
    for updates in checkpoints:
        store.save(SavedLearner(update._replace(updates=updates), {"env_steps": 4 * updates}, capture_random(), {}))
    return run_directory


def damage(run_directory: RunDirectory, updates: int) -> None:
    path = run_directory.learner_checkpoints / f"updates-{updates:012d}" / "online.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def call(main: Callable[[Sequence[str]], None], *arguments: object) -> None:
    main([str(argument) for argument in arguments])


@pytest.mark.parametrize(("settings", "size"), [(CARTPOLE, (600, 400)), (PONG, (320, 420))], ids=["cartpole", "pong"])
def test_play_makes_a_video_that_moves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: Mapping[str, Any], size: tuple[int, int]
):
    run_directory = make_run(tmp_path / "run", settings)
    call(play.main, run_directory.path, "--max-steps", 100, "--epsilon", 1, "--seed", 3)
    printed = capsys.readouterr().out
    assert "checkpoint of update 40: return " in printed
    assert str(run_directory.video) in printed
    with Image.open(run_directory.video) as video:
        assert video.format == "GIF"
        assert video.size == size
        assert len(list(ImageSequence.Iterator(video))) > 3  # of what is shown: Pillow joins frames that are equal


def test_play_writes_where_it_is_told(tmp_path: Path):
    run_directory = make_run(tmp_path / "run", CARTPOLE)
    call(play.main, run_directory.path, "--output", tmp_path / "episode.gif", "--max-steps", 5)
    assert (tmp_path / "episode.gif").exists()
    assert not run_directory.video.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("episode.avi", "must end in .gif or .mp4"),
        ("nowhere/episode.gif", "there is no folder"),
        pytest.param(
            "episode.mp4",
            "pip install imageio-ffmpeg",
            marks=pytest.mark.skipif(find_spec("imageio_ffmpeg") is not None, reason="imageio-ffmpeg is installed"),
        ),
    ],
)
def test_a_video_that_cannot_be_written_is_refused_before_anything_is_played(tmp_path: Path, name: str, message: str):
    run_directory = make_run(tmp_path / "run", CARTPOLE)
    with pytest.raises(UsageError, match=re.escape(message)):
        call(play.main, run_directory.path, "--output", tmp_path / name)


def test_eval_prints_each_episode_and_writes_the_fields_of_an_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run_directory = make_run(tmp_path / "run", CARTPOLE)
    arguments = (run_directory.path, "--episodes", 4, "--seed", 11, "--json", tmp_path / "evaluation.json")
    call(evaluate.main, *arguments)
    printed = capsys.readouterr()
    assert printed.err == ""  # a progress bar is for terminals
    assert [line.split(":")[0] for line in printed.out.splitlines()[1:5]] == [f"episode {k}" for k in range(1, 5)]
    fields = json.loads((tmp_path / "evaluation.json").read_text())
    assert list(fields) == [field.name for field in Evaluation.DESCRIPTOR.fields]
    evaluation = Evaluation(**fields)
    assert (evaluation.updates, evaluation.env_steps, evaluation.episodes, evaluation.seed) == (40, 160, 4, 11)
    assert evaluation.weights_version == 0
    assert evaluation.return_min <= evaluation.return_mean <= evaluation.return_max
    assert evaluation.return_mean == evaluation.length_mean  # CartPole gives 1 for each step
    call(evaluate.main, *arguments)
    assert capsys.readouterr().out == printed.out


def test_a_damaged_checkpoint_is_passed_over_unless_it_is_the_one_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run_directory = make_run(tmp_path / "run", CARTPOLE, checkpoints=(40, 80))
    damage(run_directory, 80)
    call(evaluate.main, run_directory.path, "--episodes", 1)
    printed = capsys.readouterr()
    assert "checkpoint of update 40 " in printed.out
    assert "online.safetensors was changed or cut short" in printed.err
    assert "trying the one before" in printed.err
    with pytest.raises(RunError, match="cut short"):
        call(evaluate.main, run_directory.path, "--checkpoint", 80)
    damage(run_directory, 40)
    with pytest.raises(RunError, match="none of the 2 checkpoints"):
        call(evaluate.main, run_directory.path)


def test_what_is_no_run_or_has_no_checkpoint_is_said(tmp_path: Path):
    run_directory = make_run(tmp_path / "run", CARTPOLE, checkpoints=())
    with pytest.raises(UsageError, match="is no run directory"):
        call(play.main, tmp_path / "nothing")
    with pytest.raises(RunError, match="has no checkpoint"):
        call(play.main, run_directory.path)
    with pytest.raises(RunError, match="has no checkpoint of update 7; it has: none"):
        call(evaluate.main, run_directory.path, "--checkpoint", 7)
    with pytest.raises(UsageError, match=r"evaluator\.episodes"):
        call(evaluate.main, run_directory.path, "--episodes", 0)


def test_the_program_fails_with_one_line_and_its_exit_code(tmp_path: Path):
    command = [sys.executable, "-m", "services.evaluator.play", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("sbrl: error: ")
