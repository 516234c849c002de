"""`make setup` where it cannot work: one clear sentence with the remedy, and nothing touched."""

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
