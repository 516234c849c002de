"""Foreign data is never unpickled or run: not from disk, not from the network."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from sbrl import yaml_text

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("sbrl", "actors", "learner", "services", "single_process", "bench", "scripts", "deploy")
# Modules whose loading functions can run code from the bytes.
FORBIDDEN_MODULES = frozenset(
    {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}
)
# Calls that unpickle or evaluate, by the end of their dotted name.
FORBIDDEN_CALLS = frozenset(
    {"torch.load", "torch.save", "torch.jit.load", "pandas.read_pickle", "pd.read_pickle", "eval", "exec"}
)
# yaml.load runs code with any loader but a safe one.
SAFE_LOADERS = frozenset({"_Loader", "SafeLoader", "CSafeLoader"})


def offences(source: str) -> Iterator[str]:
    """Statements in a module that could unpickle or run bytes."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        yield from (f"line {node.lineno}: imports {name}" for name in names if name.partition(".")[0] in FORBIDDEN_MODULES)  # type: ignore[attr-defined]
        if isinstance(node, ast.Call):
            yield from _of_call(node)


def _of_call(node: ast.Call) -> Iterator[str]:
    called = ast.unparse(node.func)
    arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if called in FORBIDDEN_CALLS or called.endswith((".read_pickle", ".to_pickle")):
        yield f"line {node.lineno}: calls {called}"
    if called in ("np.load", "numpy.load") and arguments.get("allow_pickle", "False") != "False":
        yield f"line {node.lineno}: calls {called} with allow_pickle"
    if called in ("yaml.load", "yaml.load_all"):
        loaders = {arguments.get("Loader", ""), *(ast.unparse(argument).rpartition(".")[2] for argument in node.args[1:])}
        if not loaders & SAFE_LOADERS:
            yield f"line {node.lineno}: calls {called} without a safe loader"
    if called in ("yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all", "yaml.full_load_all"):
        yield f"line {node.lineno}: calls {called}"


def test_no_module_unpickles_or_evaluates() -> None:
    paths = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    assert len(paths) > 100
    found = [f"{path.relative_to(ROOT)}, {one}" for path in paths for one in offences(path.read_text(encoding="utf-8"))]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import cloudpickle.compat",
        "import torch\ntorch.load(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import pandas\npandas.read_pickle(path)",
        "import yaml\nyaml.load(text)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "import yaml\nyaml.unsafe_load(text)",
        "eval(text)",
    ],
)
def test_what_would_is_found(source: str) -> None:
    assert list(offences(source))


def test_the_safe_ways_are_not() -> None:
    safe = "import json, yaml\nyaml.load(text, _Loader)\nnp.load(path)\nsafetensors.torch.load(data)\nnetwork.eval()"
    assert not list(offences(safe))
    assert issubclass(yaml_text._Loader, yaml.SafeLoader)
