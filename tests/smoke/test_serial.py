"""`sbrl train --serial`: bit-reproducible from its seed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from learner.algorithm.update import configure_torch
from sbrl.config import load, serial_config
from sbrl.errors import FinalError
from sbrl.storage.run_directory import RunDirectory
from sbrl.v1.fleet_pb2 import GetStatusResponse
from single_process.run import SerialRun
from tests import bad_env, picture_env
from tests.smoke.conftest import FAST, sbrl

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(600)  # seconds on an idle machine, minutes on a busy one


def serial(directory: Path, *arguments: str) -> dict[str, Any]:
    done = sbrl("train", "--serial", "--run-dir", str(directory), *arguments, timeout=240)
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


def test_an_environment_of_pictures_is_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lit half of the picture shows which button pays: 8 for a whole episode, 4 by chance."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # where the environment is
    settings = (
        *(f"env.id={picture_env.BUTTONS_ID}", "env.kwargs.shape=[40,64,3]", "env.frame_size=36", "env.frame_stack=2"),
        *("agent.algorithm=dqn", "agent.hidden_size=32", "agent.n_step=1", "agent.discount=0.5", "run.env_steps=1000"),
        *("replay.min_size=200", "learner.updates_per_step=0.5", "learner.learning_rate=1e-3"),
        *("learner.target_update_period=100", "agent.epsilon_decay_steps=500", "evaluator.episodes=20"),
    )
    summary = serial(tmp_path / "run", *settings)
    assert summary["updates"] == 400
    assert summary["frames"] == summary["env_steps"] == 1000
    assert summary["eval_return_mean"] > 7


EVERYTHING = (
    *("env.id=ALE/Breakout-v5", "env.frame_size=36", "env.max_episode_steps=60", "run.env_steps=320", "replay.min_size=160"),
    *("agent.algorithm=iqn", "agent.dueling=true", "agent.double=true", "agent.noisy=true", "agent.exploration=noisy-nets"),
    *("agent.torso=impala", "agent.width_scale=0.25", "agent.layer_norm=true", "agent.hidden_size=16"),
    *("agent.num_tau_samples=4", "agent.num_tau_prime_samples=4", "agent.num_policy_samples=4", "agent.act_with_target=true"),
    *("agent.spr_weight=5", "agent.n_step_initial=6", "agent.discount_initial=0.97", "agent.anneal_updates=10"),
    *("learner.target_update_period=1", "learner.target_update_rate=0.005", "learner.publish_period=10"),
    *("learner.random_shift=4", "learner.intensity_jitter=0.05", "learner.weight_decay=0.1", "learner.max_gradient_norm=10"),
    *("learner.reset_period=15", "learner.no_resets_after_env_steps=300", "replay.importance_weights=true"),
)


def test_every_option_at_once_is_reproducible_in_one_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise, quantile fractions, augmentation and resets all follow from run.seed. Nothing remains from an earlier run, and
    nothing depends on whether diagnostics are on."""

    configure_torch(num_threads=1)
    monkeypatch.setattr("learner.algorithm.diagnostics.NUM_STATES", 64)
    monkeypatch.setattr("learner.algorithm.diagnostics.WINDOW", 4)

    def digests(name: str, diagnostics: str) -> dict[str, str]:
        overrides = (*EVERYTHING, f"learner.diagnostics_period={diagnostics}")
        config = serial_config(load(preset="small-batch", overrides=overrides))
        run = SerialRun(config, RunDirectory(tmp_path / name))
        try:
            run.run(lambda _status: None)
            run.save()
            return run.digests()
        finally:
            run.close()

    with caplog.at_level(logging.INFO):
        first = digests("first", "10")
    assert [record.getMessage().partition(":")[0] for record in caplog.records if record.name.startswith("learner.")] == [
        "diagnostics after update 14",
        "reset 1 after update 15",
        "diagnostics after update 24",
        "reset 2 after update 30",
        "diagnostics after update 34",
    ]
    assert digests("second", "null") == first


def serial_run(directory: Path, *overrides: str) -> SerialRun:
    configure_torch(num_threads=1)
    return SerialRun(serial_config(load(overrides=[*FAST, "replay.min_size=100", *overrides])), RunDirectory(directory))


def test_a_bad_value_ends_a_run_or_costs_the_rest_of_its_episode(tmp_path: Path) -> None:
    bad = (f"env.id={bad_env.ENV_ID}", "run.env_steps=1300")  # eight environments, each with a bad step every 151
    with (
        closing(serial_run(tmp_path / "stops", *bad)) as run,
        pytest.raises(FinalError, match="BadReward-v0 returned reward=nan"),
    ):
        run.run(lambda status: None)
    with closing(serial_run(tmp_path / "goes on", *bad, "env.on_bad_value=drop_episode")) as run:
        run.run(lambda status: None)
        run.save()
        status = run.status()
        totals, received = status.totals, status.progress.shards[0].received
    assert totals["actor.episodes_cut"] == 8
    assert received == totals["actor.env_steps"] - 8
    assert {episode.episode_return for episode in run.episodes} == {50.0}


@pytest.mark.parametrize("prioritized", ["true", "false"])
def test_a_run_in_one_process_that_diverges_says_so_and_saves_nothing(tmp_path: Path, prioritized: str) -> None:
    with closing(serial_run(tmp_path, "run.env_steps=400", f"replay.prioritized={prioritized}")) as run:

        def spoil(status: Callable[[], GetStatusResponse]) -> None:
            if status().progress.updates > 20:
                next(iter(run._step.state().online.values())).fill_(float("nan"))

        with pytest.raises(FinalError, match=r"the loss is not finite after \d+ updates; lower learner.learning_rate"):
            run.run(spoil)
        with pytest.raises(FinalError, match="the network is not finite"):
            run.save()
    assert not RunDirectory(tmp_path).learner_checkpoints.exists()


@pytest.mark.parametrize(
    ("updates_per_step", "env_steps", "updates"), [(64, 208, 8 * 64), (1 / 64, 200 + 640, 10)], ids=["64", "1/64"]
)
def test_the_ratio_holds_at_both_ends(tmp_path: Path, updates_per_step: float, env_steps: int, updates: int) -> None:
    ratio = (f"learner.updates_per_step={updates_per_step}", f"run.env_steps={env_steps}", "replay.min_size=200")
    summary = serial(tmp_path / "run", *FAST, *ratio)
    assert summary["env_steps"] == env_steps
    assert summary["updates"] == updates
    assert summary["samples_per_insert_achieved"] == 8 * updates_per_step


def test_environments_that_all_end_at_once_do_not_block(tmp_path: Path) -> None:
    # MountainCar truncates after 200 steps, all eight at once, so the last n steps of each become items in one round.
    summary = serial(
        tmp_path / "run",
        *("env.id=MountainCar-v0", "run.env_steps=1700", "replay.min_size=200", "agent.n_step=8"),
        *("agent.hidden_size=16", "agent.num_quantiles=8", "evaluator.episodes=1", "evaluator.num_envs=1"),
    )
    assert summary["transitions_received"] == summary["env_steps"]
