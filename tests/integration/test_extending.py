"""Follows docs/extending.md to make a package with an agent, with the page's own code. Also packages that fail."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import gymnasium
import pytest
import torch

from learner.algorithm.losses.interface import Loss, LossResult
from learner.algorithm.update import configure_torch
from learner.records import Batch
from sbrl import config
from sbrl.cli import __main__ as cli
from sbrl.config import agents
from sbrl.envs.make import make_spec
from sbrl.envs.render import make_rendered_env
from sbrl.errors import UsageError
from sbrl.networks.build import build_network
from sbrl.networks.network import ValueNetwork
from sbrl.storage.atomic import replace_text
from sbrl.storage.run_directory import RunDirectory
from services.evaluator.agent import load_agent
from single_process.run import SerialRun

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENT = REPOSITORY / "docs" / "extending.md"
# A block of code, found by the line above it.
NEW_FILE = re.compile(r"^New file `(?P<path>[^`]+)`:\n\n```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
TOML = re.compile(r"^```toml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SETTINGS = (
    *("run.env_steps=500", "replay.min_size=100", "agent.hidden_size=32", "actors.envs_per_actor=4"),
    *("agent.double=true", "agent.dueling=true", "replay.prioritized=true", "replay.importance_weights=true"),
)


class AddedAgent(NamedTuple):
    """The names in the document's package, and its files as modules, by path."""

    preset: str
    algorithm: str
    files: dict[str, ModuleType]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A folder on the import path. Modules from it are forgotten after the test."""
    folder, before = tmp_path / "site", set(sys.modules)
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    agents.of_other_packages.cache_clear()
    yield folder
    agents.of_other_packages.cache_clear()
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def added(site: Path) -> Iterator[AddedAgent]:
    """The document's package, installed during the test."""
    text = DOCUMENT.read_text(encoding="utf-8")
    files = {match["path"]: match["code"] for match in NEW_FILE.finditer(text)}
    assert len(files) == text.count("```python\n"), "a block of code is of no file, and would not be run"
    for path, code in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(code)
    (project,) = (tomllib.loads(block)["project"] for block in TOML.findall(text))
    ((algorithm, value),) = project["entry-points"][agents.GROUP].items()
    install(site, project["name"], algorithm, value)
    (preset,) = agents.all_algorithms()[algorithm].presets
    yield AddedAgent(preset, algorithm, {path: imported(site, path) for path in files})
    del gymnasium.envs.registry["CartPolePixels-v0"]


def install(site: Path, project: str, name: str, value: str) -> None:
    """Writes what pip writes for a package with an entry point."""
    notes = site / f"{project.replace('-', '_')}-1.0.dist-info"
    notes.mkdir()
    (notes / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n")
    (notes / "entry_points.txt").write_text(f"[{agents.GROUP}]\n{name} = {value}\n")


def imported(site: Path, path: str) -> ModuleType:
    """Imports a file of the package; a test file, which is not in a package, is imported as by pytest."""
    name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    if not path.startswith("tests/"):
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(name, site / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_parameter_of_the_documents_agent_learns(
    added: AddedAgent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    losses: list[torch.Tensor] = []
    loss = added.files["hl_gauss/loss.py"]
    make: Callable[[config.Agent], Loss] = loss.HistogramLoss

    def make_recorded(agent: config.Agent) -> Loss:
        compute = make(agent)

        def recorded(features_tm1: torch.Tensor, online: ValueNetwork, target: ValueNetwork, batch: Batch) -> LossResult:
            result = compute(features_tm1, online, target, batch)
            losses.append(result.loss.detach())
            return result

        return recorded

    monkeypatch.setattr(loss, "HistogramLoss", make_recorded)
    tree, after = train(added.preset, RunDirectory(tmp_path / "run"))
    assert tree.agent.algorithm == added.algorithm
    assert len(losses) >= 390
    assert all(loss.shape == (tree.learner.batch_size,) and loss.isfinite().all() and (loss >= 0).all() for loss in losses)
    before = build_network(tree.agent, make_spec(tree.env), seed=tree.run.seed).state_dict()
    assert before.keys() == after.keys()
    for name, parameter in after.items():
        assert parameter.isfinite().all(), name
        assert not torch.equal(parameter, before[name]), f"{name} has not moved"


def train(preset: str, directory: RunDirectory) -> tuple[config.Config, Mapping[str, torch.Tensor]]:
    """A short run on CartPole with every option that affects losses and heads; returns its config and final weights."""
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


def test_the_documents_environment_shows_pictures(added: AddedAgent) -> None:
    environment = config.load(overrides=["env.id=cartpole_pixels:CartPolePixels-v0"]).env
    env = make_rendered_env(environment, seed=1)
    assert (env.spec.kind, env.spec.observation_shape) == ("frames", (4, 84, 84))
    assert env.reset()[0, -1].std() > 0
    assert env.picture().shape == (400, 600, 3)
    env.close()


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


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("agent.options.sigma_in_bins=0", r"^agent\.options\.sigma_in_bins=0 must be above 0 \(Width of the target's Gaussian"),
        (
            "agent.options.sigma_in_bin=1",
            r"^unknown key .agent\.options\.sigma_in_bin.; did you mean .agent\.options\.sigma_in_bins",
        ),
        ("agent.options=5", r"^agent\.options=5 must be a mapping: names with values"),
    ],
)
def test_options_that_the_document_s_agent_does_not_take_are_refused(added: AddedAgent, override: str, message: str) -> None:
    assert config.load(preset=added.preset, overrides=["agent.options.sigma_in_bins=0.5"]).agent.options == {
        "sigma_in_bins": 0.5
    }
    with pytest.raises(UsageError, match=message):
        config.load(preset=added.preset, overrides=[override])


def test_sbrl_s_own_agents_have_no_options() -> None:
    with pytest.raises(UsageError, match=r"agent\.options is .*sigma.* with agent\.algorithm iqn, which has none"):
        config.load(overrides=["agent.algorithm=iqn", "agent.options.sigma=1"])


def test_without_the_package_its_names_are_unknown() -> None:
    with pytest.raises(UsageError, match="unknown preset 'classic-hl-gauss'"):
        config.load(preset="classic-hl-gauss")
    with pytest.raises(UsageError, match=r"agent\.algorithm='hl-gauss' is not known"):
        config.load(overrides=["agent.algorithm=hl-gauss"])


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_module", "the agent 'bad' of package broken cannot be loaded: ModuleNotFoundError: No module named"),
        ("AGENT = 3", r"the agent 'bad' of package broken is no sbrl\.config\.algorithms\.Algorithm but int"),
    ],
)
def test_a_broken_package_is_named_and_in_nobodys_way_who_does_not_ask_for_it(site: Path, code: str, message: str) -> None:
    (site / "broken.py").write_text(code)
    install(site, "broken", "bad", "broken:AGENT")
    assert config.load(overrides=["agent.algorithm=iqn"]).agent.algorithm == "iqn"
    with pytest.raises(UsageError, match=message):
        config.load(overrides=["agent.algorithm=bad"])


def test_two_packages_with_one_agent_are_refused(site: Path) -> None:
    for name in ("one", "other"):
        install(site, name, "bad", f"{name}:AGENT")
    with pytest.raises(UsageError, match=r"two packages offer the agent 'bad': (one and other|other and one)"):
        config.load(overrides=["agent.algorithm=bad"])


@pytest.mark.parametrize("reference", ["histogram", "no_such_module:Head", "sbrl.networks.heads.base:NoSuchHead"])
def test_a_part_that_cannot_be_imported_is_named(reference: str) -> None:
    with pytest.raises(UsageError, match=f"an agent's part '{reference}' cannot be imported"):
        agents.import_part(reference)
