"""`make setup` and `make oracles` where they cannot work: one clear sentence with the remedy, and nothing left behind."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def executable(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("name", "body", "sentence"),
    [
        (
            "uname",
            'case "$1" in -s) echo Darwin ;; *) echo arm64 ;; esac',
            "runs on Linux x86_64 with glibc, this is Darwin arm64",
        ),
        ("getconf", "exit 1", "runs on Linux x86_64 with glibc"),  # musl
        ("python", "exit 1", "Python 3.11 is needed"),
        ("python", 'case "$2" in *ensurepip*) exit 1 ;; esac', "apt-get install python3.11-venv"),
    ],
    ids=["platform", "musl", "python", "venv"],
)
def test_setup_says_what_is_missing(tmp_path: Path, name: str, body: str, sentence: str):
    scripts = tmp_path / "tree" / "scripts"
    scripts.mkdir(parents=True)
    script = executable(scripts / "setup.sh", (ROOT / "scripts" / "setup.sh").read_text(encoding="utf-8"))
    commands = tmp_path / "commands"
    commands.mkdir()
    executable(commands / "python", "exit 0")
    executable(commands / name, body)
    environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "PYTHON": str(commands / "python")}

    done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True, timeout=20, check=False)

    assert done.returncode == 1
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "tree" / ".venv").exists()


@pytest.fixture
def oracles_tree(tmp_path: Path) -> Path:
    """A tree to run scripts/oracles.sh in. Its Python makes an empty environment, and notes what it was called with."""
    for directory in ("scripts", ".venv/bin"):
        (tmp_path / directory).mkdir(parents=True)
    executable(tmp_path / "scripts" / "oracles.sh", (ROOT / "scripts" / "oracles.sh").read_text(encoding="utf-8"))
    (tmp_path / "constraints-oracles.txt").write_text("rlax==0.1.6\n", encoding="utf-8")
    python = 'echo "$@" >> calls.txt; case "$2" in venv) mkdir .venv-oracles ;; pip) exit $(cat pip-status.txt) ;; esac'
    executable(tmp_path / ".venv" / "bin" / "python", python)
    return tmp_path


def run_oracles(tree: Path, pip_status: int) -> subprocess.CompletedProcess[str]:
    (tree / "pip-status.txt").write_text(str(pip_status), encoding="utf-8")
    return subprocess.run(["bash", "scripts/oracles.sh"], cwd=tree, capture_output=True, text=True, timeout=20, check=False)


def test_oracles_are_installed_once_and_again_when_their_versions_change(oracles_tree: Path):
    for text, times in (("rlax==0.1.6\n", 1), ("rlax==0.1.6\n", 1), ("rlax==0.1.7\n", 2)):
        (oracles_tree / "constraints-oracles.txt").write_text(text, encoding="utf-8")
        assert run_oracles(oracles_tree, pip_status=0).returncode == 0
        assert (oracles_tree / "calls.txt").read_text(encoding="utf-8").count("-m pip install") == times
        assert (oracles_tree / ".venv-oracles" / ".complete").read_text(encoding="utf-8") == text


def test_oracles_say_what_to_do_when_pip_fails(oracles_tree: Path):
    run_oracles(oracles_tree, pip_status=0)
    (oracles_tree / "constraints-oracles.txt").write_text("rlax==9\n", encoding="utf-8")
    done = run_oracles(oracles_tree, pip_status=1)
    assert done.returncode == 1
    assert "put right what pip says and run 'make oracles' again" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (oracles_tree / ".venv-oracles").exists()
