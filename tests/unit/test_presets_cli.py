"""`sbrl presets`, and commands' warnings about a config."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sbrl import config
from sbrl.cli import __main__ as cli
from sbrl.cli import presets
from sbrl.config import Env
from sbrl.config.presets import PRESETS
from sbrl.envs.make import make_spec
from sbrl.envs.spec import EnvSpec
from sbrl.errors import UsageError
from sbrl.networks.build import build_network


def list_presets(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    assert cli.run(["presets", "--json"]) == 0
    return {row["name"]: row for row in json.loads(capsys.readouterr().out)}


def test_the_list_has_every_preset_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    rows = list_presets(capsys)
    assert list(rows) == list(PRESETS)
    # Environment, batch, updates per step, samples per insert, first and last n, torso.
    figures = {
        "small-batch": ("ALE/Pong-v5", 8, 0.25, 2.0, 3, 3, "nature-cnn"),
        "dqn": ("ALE/Pong-v5", 32, 0.25, 8.0, 1, 1, "nature-cnn"),
        "sr-spr": ("ALE/Pong-v5", 32, 8.0, 256.0, 10, 10, "nature-cnn"),
        "bbf": ("ALE/Pong-v5", 32, 2.0, 64.0, 10, 3, "impala"),
        "minatar-dqn": ("MinAtar/Breakout-v1", 32, 0.25, 8.0, 1, 1, "minatar-conv"),
        "classic-dqn": ("CartPole-v1", 32, 1.0, 32.0, 5, 5, "mlp"),
    }
    for name, figure in figures.items():
        row = rows[name]
        columns = ("environment", "batch_size", "updates_per_step", "samples_per_insert", "n_step_initial", "n_step", "torso")
        assert tuple(row[column] for column in columns) == figure, name


@pytest.mark.parametrize("name", ["classic-full-rainbow", "minatar-qr-dqn"])
def test_parameters_are_those_of_the_network_that_is_built(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    tree = config.load(preset=name)
    network = build_network(tree.agent, make_spec(tree.env))
    assert list_presets(capsys)[name]["parameters"] == sum(parameter.numel() for parameter in network.parameters())


def test_without_a_terminal_the_list_is_plain_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["presets"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["preset", "environment", "batch", "updates/step"]
    assert [line.split()[0] for line in lines] == list(PRESETS)
    assert len({line.index(PRESETS[name].description) for name, line in zip(PRESETS, lines, strict=True)}) == 1
    bbf = next(line.split() for line in lines if line.startswith("bbf "))
    assert bbf[1:7] == ["ALE/Pong-v5", "32", "2", "64", "10->3", "impala"]


@pytest.mark.parametrize("width", [80, 160])
def test_on_a_terminal_no_name_or_figure_is_cut_off(width: int) -> None:
    rows, _ = presets.preset_rows()
    output = io.StringIO()
    Console(file=output, width=width).print(presets.rich_table(rows, width))
    words = output.getvalue().split()
    for row in rows:
        assert {row.name, row.torso, f"{row.parameters:,}"} <= set(words)
    assert ("augmentation," in words) == (width == 160)


def test_an_environment_that_cannot_be_made_leaves_the_rest_of_the_list(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def make(env: Env) -> EnvSpec:
        if env.id.startswith("MinAtar/"):
            raise UsageError("MinAtar environments need the package minatar")
        return make_spec(env)

    monkeypatch.setattr(presets, "_spec", make)
    assert cli.run(["presets"]) == 0
    printed = capsys.readouterr()
    assert printed.err == "sbrl: warning: MinAtar environments need the package minatar\n"
    lines = {line.split()[0]: line.split() for line in printed.out.splitlines()}
    assert lines["minatar-dqn"][6:8] == ["?", "?"]
    assert lines["classic-dqn"][6] == "mlp"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_that_is_shown_can_be_loaded(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["presets", "show", name]) == 0
    shown = capsys.readouterr().out
    first, second, *_ = shown.splitlines()
    assert first == f"# {name}: {PRESETS[name].description}"
    assert second == f"# Source: {PRESETS[name].source}"
    path = tmp_path / "preset.yaml"
    path.write_text(shown, encoding="utf-8")
    assert config.load(path) == config.load(preset=name)


def test_an_unknown_preset_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown preset 'small-bach'; did you mean 'small-batch'.*`sbrl presets` lists"):
        cli.run(["presets", "show", "small-bach"])


def test_what_is_seldom_meant_is_said_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["config", "show", "--preset", "dqn", "replay.importance_weights=true"]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("sbrl: warning: replay.importance_weights is true but replay.prioritized is false")
    assert "importance_weights: true" in printed.out
    assert cli.run(["config", "show", "--preset", "dqn"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("serial", [[], ["--serial"]], ids=["all roles", "serial"])
def test_train_warns_before_it_starts(
    serial: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    class Started(Exception):
        pass

    def start(*_arguments: object) -> None:
        raise Started

    monkeypatch.setattr("sbrl.local.launch.train", start)
    monkeypatch.setattr("os.execv", start)
    arguments = ["--run-dir", str(tmp_path / "run"), "--preset", "dqn", "replay.importance_weights=true"]
    with pytest.raises(Started):
        cli.run(["train", *serial, *arguments])
    assert capsys.readouterr().err.count("sbrl: warning: replay.importance_weights is true") == 1
