"""The chart's tests run helm itself: it is fetched the first time."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.chart.helm import ROOT


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            # The download does not count towards the first test's time limit: a slow network is not a failure.
            item.add_marker(pytest.mark.timeout(120, func_only=True))


@pytest.fixture(scope="session", autouse=True)
def tools():
    for script in ("scripts/tools.sh", "scripts/prometheus.sh"):
        done = subprocess.run([ROOT / script], capture_output=True, text=True, timeout=1200, check=False)
        assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
