"""SBRL without its extra `train`, for a laptop that watches runs: tools work, and commands that need more say so."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def with_what_they_bring(names: list[str]) -> dict[str, Distribution]:
    found: dict[str, Distribution] = {}
    left = [Requirement(name) for name in names]
    while left:
        name = canonicalize_name(left.pop().name)
        if name not in found:
            found[name] = distribution(name)
            brought = map(Requirement, found[name].requires or ())
            left += [one for one in brought if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the packages that the light installation has, and no others."""
    folder = tmp_path_factory.mktemp("packages")
    for package in with_what_they_bring(PROJECT["dependencies"]).values():
        for top in {file.parts[0] for file in package.files or () if file.parts[0] != ".."}:
            link = folder / top
            if not link.exists():
                link.symlink_to(Path(str(package.locate_file(top))))
    return folder


def run(packages: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs a module without the packages of this installation (-S)."""
    environment = {**os.environ, "PYTHONPATH": f"{packages}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-S", "-m", *words]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "words",
    [
        ("sbrl.cluster.status", "--help"),
        ("sbrl.cluster.scale", "--help"),
        ("sbrl.cluster.watch", "top", "--help"),
        ("sbrl.cluster.watch", "doctor", "--help"),
        ("sbrl.monitor.doctor", "--help"),
        ("sbrl.backup", "--help"),
        ("sbrl.backup.restore", "--help"),
        ("sbrl.monitor.top", "--help"),
        ("sbrl.cli", "--help"),
        ("sbrl.cli", "config", "show"),
        ("sbrl.cli", "presets", "show", "small-batch"),
    ],
    ids=" ".join,
)
def test_a_tool_needs_no_more(packages: Path, words: tuple[str, ...]) -> None:
    done = run(packages, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [
        ("train", "PyTorch", "train"),
        ("presets", "PyTorch", "train"),
        ("study", "PyTorch", "train"),
        ("learner", "PyTorch", "train"),
        ("report", "SciPy", "report"),
    ],
)
def test_what_needs_more_says_so(packages: Path, command: str, package: str, extra: str) -> None:
    done = run(packages, "sbrl.cli", command)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"sbrl: error: sbrl {command} takes {package}, and SBRL is installed without it")
    assert f"the extra '{extra}'" in line


def test_a_bucket_needs_more_and_says_so(packages: Path) -> None:
    done = run(packages, "sbrl.backup.restore", "s3://backups", "not-there")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "takes obstore, and SBRL is installed without it" in line
    assert "the extra 's3' (pip install 'sbrl[s3]'" in line


def test_the_light_installation_has_none_of_what_only_runs_take() -> None:
    light = with_what_they_bring(PROJECT["dependencies"])
    heavy = {canonicalize_name(Requirement(name).name) for name in PROJECT["optional-dependencies"]["train"]}
    assert heavy & light.keys() == set()
