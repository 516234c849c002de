"""The fixture `oracle`: asks one process of .venv-oracles for reference values, and compares."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from tests.oracles.client import Oracle

ROOT = Path(__file__).parents[2]

# Each operation runs only a few times, so optimising it in XLA would take longer than it saves.
_QUICK_TO_COMPILE = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
_DEVIATIONS = pytest.StashKey[dict[tuple[str, str], float]]()


@pytest.fixture(scope="session")
def oracle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    complete, constraints = ROOT / ".venv-oracles" / ".complete", ROOT / "constraints-oracles.txt"
    if not complete.exists() or complete.read_text(encoding="utf-8") != constraints.read_text(encoding="utf-8"):
        pytest.fail(".venv-oracles is missing or not what constraints-oracles.txt says: run `make oracles`", pytrace=False)
    errors = tmp_path_factory.mktemp("oracles") / "stderr.txt"
    with (
        errors.open("wb") as stderr,
        subprocess.Popen(
            [ROOT / ".venv-oracles" / "bin" / "python", "-m", "tests.oracles.server"],
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": _QUICK_TO_COMPILE},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        oracle = Oracle(cast(BinaryIO, process.stdin), cast(BinaryIO, process.stdout), errors)
        yield oracle
        process.stdin.close()  # ends the process
    request.config.stash[_DEVIATIONS] = oracle.deviations


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """With -v: the largest deviation seen from each reference."""
    if config.get_verbosity() < 1 or _DEVIATIONS not in config.stash:
        return
    terminalreporter.section("largest deviations from the oracles, relative to max(1, |value|)")
    for (ours, theirs), deviation in sorted(config.stash[_DEVIATIONS].items()):
        terminalreporter.write_line(f"{ours:40} {theirs:50} {deviation:.1e}")
