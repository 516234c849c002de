"""The update as for a GPU, but on fake CUDA tensors, in a separate program (`tests.fake_cuda`)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sbrl import config
from sbrl.config.presets import PRESETS
from tests.fake_cuda import compile_guard

pytestmark = pytest.mark.timeout(600)
COMPILER = shutil.which("g++")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Mapping[str, Any]]:
    """By preset, the program's results for two updates."""
    if COMPILER is None:
        pytest.skip("fake CUDA tensors need g++, for a library of two lines, and there is none")
    guard = compile_guard(tmp_path_factory.mktemp("guard"), COMPILER)
    command = [sys.executable, "-W", "ignore", "-m", "tests.fake_cuda", str(guard), *PRESETS]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr
    return {line["preset"]: line for line in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_presets_update_stays_on_the_device(preset: str, found: Mapping[str, Mapping[str, Any]]) -> None:
    line = found[preset]
    assert line["devices"] == ["cuda:0"]
    assert line["tensors"] > 15
    assert line["batch"] == config.build(PRESETS[preset].settings).learner.batch_size


def test_reading_a_number_back_and_a_tensor_of_the_cpu_are_found(found: Mapping[str, Mapping[str, Any]]) -> None:
    first = next(iter(found.values()))
    assert first["item"] == "DataDependentOutputException"
    assert first["cpu"] == "FakeTensorDeviceMismatchError"
