"""docs/extending.md adds an agent by one head, one loss and one preset: this does what it says, with the code it shows."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch

from learner.algorithm.losses.interface import Loss, LossResult
from learner.algorithm.losses.registry import LOSSES
from learner.algorithm.update import configure_torch
from learner.records import Batch
from sbrl import config
from sbrl.cli import __main__ as cli
from sbrl.config.algorithms import ALGORITHMS
from sbrl.envs.make import make_spec
from sbrl.networks.build import build_network
from sbrl.networks.network import ValueNetwork
from sbrl.storage.atomic import replace_text
from sbrl.storage.run_directory import RunDirectory
from services.evaluator.agent import load_agent
from single_process.run import SerialRun

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENT = REPOSITORY / "docs" / "extending.md"
# What a block of code is, by the line above it.
NEW_FILE = re.compile(r"^New file `(?P<path>[^`]+)`:\n\n```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
ENTRY = re.compile(
    r"^An entry in `(?P<table>\w+)` of `(?P<path>[^`]+)`[^:]*:\n\n```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
SETTINGS = (
    *("run.env_steps=500", "replay.min_size=100", "agent.hidden_size=32", "actors.envs_per_actor=4"),
    *("agent.double=true", "agent.dueling=true", "replay.prioritized=true", "replay.importance_weights=true"),
)


class AddedAgent(NamedTuple):
    """The names that the document's tables are given, and its new files as modules, by path."""

    preset: str
    algorithm: str
    head: str
    loss: str
    files: dict[str, ModuleType]


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> AddedAgent:
    """The document's agent, until the test is over."""
    text = DOCUMENT.read_text(encoding="utf-8")
    files, entries = list(NEW_FILE.finditer(text)), list(ENTRY.finditer(text))
    assert len(files) + len(entries) == text.count("```python\n"), "a block of code is of neither kind, and would not be run"
    modules: dict[str, ModuleType] = {}
    for match in files:
        path = match["path"]
        assert not (REPOSITORY / path).exists(), f"{path} is no new file"
        module = ModuleType(module_name(path))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(match["code"], f"{DOCUMENT.name}: {path}", "exec"), vars(module))
        modules[path] = module
    new_names = {name: value for module in modules.values() for name, value in vars(module).items()}
    names: dict[str, str] = {}
    for match in entries:
        place = importlib.import_module(module_name(match["path"]))
        table: dict[str, Any] = getattr(place, match["table"])
        # An entry uses what its module has, and what it has to import from the new files.
        ((name, entry),) = eval(f"{{{match['code']}}}", {**new_names, **vars(place)}).items()
        assert name not in table
        monkeypatch.setitem(table, name, entry)
        names[match["table"]] = name
    return AddedAgent(names["PRESETS"], names["ALGORITHMS"], names["HEADS"], names["LOSSES"], modules)


def test_every_parameter_of_the_documents_agent_learns(
    added: AddedAgent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    losses: list[torch.Tensor] = []
    make = LOSSES[added.loss]

    def make_recorded(agent: config.Agent) -> Loss:
        compute = make(agent)

        def recorded(features_tm1: torch.Tensor, online: ValueNetwork, target: ValueNetwork, batch: Batch) -> LossResult:
            result = compute(features_tm1, online, target, batch)
            losses.append(result.loss.detach())
            return result

        return recorded

    monkeypatch.setitem(LOSSES, added.loss, make_recorded)
    tree, after = train(added.preset, RunDirectory(tmp_path / "run"))
    assert tree.agent.algorithm == added.algorithm
    assert (ALGORITHMS[added.algorithm].head, ALGORITHMS[added.algorithm].loss) == (added.head, added.loss)
    assert len(losses) >= 390
    assert all(loss.shape == (tree.learner.batch_size,) and loss.isfinite().all() and (loss >= 0).all() for loss in losses)
    before = build_network(tree.agent, make_spec(tree.env), seed=tree.run.seed).state_dict()
    assert before.keys() == after.keys()
    for name, parameter in after.items():
        assert parameter.isfinite().all(), name
        assert not torch.equal(parameter, before[name]), f"{name} has not moved"


def train(preset: str, directory: RunDirectory) -> tuple[config.Config, Mapping[str, torch.Tensor]]:
    """A short run on CartPole with all that a loss and a head have to work with, and the weights it ends with."""
    tree = config.serial_config(config.load(preset=preset, overrides=SETTINGS))
    configure_torch(1)
    directory.logs.mkdir(parents=True)
    replace_text(directory.config, config.dump(tree))
    run = SerialRun(tree, directory)
    try:
        run.run(lambda _status: None)
        run.save()
    finally:
        run.close()
    return tree, load_agent(directory, updates=None).weights


def test_the_documents_preset_is_listed(added: AddedAgent, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["presets", "--json"]) == 0
    row = {row["name"]: row for row in json.loads(capsys.readouterr().out)}[added.preset]
    assert row["torso"] == "mlp"
    assert row["parameters"] > 0


def test_the_documents_own_test_passes(added: AddedAgent) -> None:
    (module,) = (module for path, module in added.files.items() if path.startswith("tests/"))
    tests = {name: value for name, value in vars(module).items() if name.startswith("test_")}
    assert tests
    for test in tests.values():
        cases = [mark.args[1] for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize"]
        for value in cases[0] if cases else ():
            test(value)
        if not cases:
            test()


def module_name(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".")
