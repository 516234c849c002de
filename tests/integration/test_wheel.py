"""The wheel's content, and that it works alone, from any folder, with the packages that it requires."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"actors", "learner", "sbrl", "services", "single_process", "studies"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy, so that no build folder of the checkout counts, and none is left in it.
    source = folder / "source"
    for name in (*PACKAGES, "deploy"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=100)
    (found,) = folder.glob("*.whl")
    return found


def test_it_holds_the_packages_and_their_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == PACKAGES
    assert {
        *("sbrl/py.typed", "sbrl/telemetry/rules/alerts.yaml", "sbrl/telemetry/dashboards/overview.json"),
        *("studies/library/pilot.yaml", "sbrl/v1/fleet_pb2.py"),
    } <= names


def test_it_trains_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    """In a separate environment that borrows the required packages; `make wheel` lets pip resolve them."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True, timeout=60)
    (packages,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [
        "train",
        "--serial",
        "--preset",
        "classic-dqn",
        "--run-dir",
        "run",
        "run.env_steps=300",
        "replay.min_size=100",
        "evaluator.episodes=1",
    ]
    done = subprocess.run(
        [str(tmp_path / "venv/bin/python"), "-P", "-m", "sbrl.cli", *words],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run/summary.json").read_text(encoding="utf-8"))["complete"]
