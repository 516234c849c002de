"""SBRL as a library: the page's code runs, imports are light, failures are exceptions with the command's words."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sbrl
from sbrl.errors import RunError, UsageError

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(300)
def test_the_code_of_the_page_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs/library.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/cartpole/summary.json").is_file()


def test_the_import_is_light() -> None:
    """It imports only itself and the standard library, so that no command becomes slower."""
    code = "import sys; before = set(sys.modules); import sbrl; print(*sorted(set(sys.modules) - before))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert {name for name in done.stdout.split() if name.partition(".")[0] not in sys.stdlib_module_names} == {"sbrl"}


def test_it_lists_its_functions_and_no_others() -> None:
    assert set(sbrl.__all__) <= set(dir(sbrl))
    with pytest.raises(AttributeError, match="'fit': the library's functions are evaluate, load_config"):
        sbrl.fit  # noqa: B018


def test_what_is_wrong_is_said_as_the_command_says_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"learner\.batch_size"):
        sbrl.load_config("classic-dqn", "learner.batch_sise=8")
    with pytest.raises(UsageError, match="is no run directory"):
        sbrl.evaluate(tmp_path)
    with pytest.raises(UsageError, match="is no run directory"):
        sbrl.load_policy(tmp_path)


def test_a_run_that_cannot_start_raises_its_message(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises((UsageError, RunError), match="run"):
        sbrl.train(sbrl.load_config("classic-dqn"), tmp_path / "run", serial=True, quiet=True)
    assert (tmp_path / "run/notes.txt").read_text(encoding="utf-8") == "mine"
