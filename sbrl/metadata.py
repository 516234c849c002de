"""What a run is called and was made with: its id, versions and git commit, kept at the head of its run.yaml."""

from __future__ import annotations

import platform
import secrets
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from sbrl.yaml_text import read_yaml_text

PACKAGES = ("sbrl", "torch", "dm-reverb", "tensorflow-cpu", "numpy", "gymnasium", "ale-py")


def run_metadata(run_id: str) -> dict[str, Any]:
    """The run's id, versions of what matters, the git commit and the time."""
    return {
        "run_id": run_id,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "git_commit": git_commit(),
        "platform": platform.platform(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def new_run_id(env_id: str) -> str:
    """A name that no other run has, and that people can tell from others': game, time, four random digits."""
    game = env_id.rpartition("/")[2].partition("-")[0].lower()
    return f"{game}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"


def run_id_of(config: Path) -> str:
    """The id of the run that a run.yaml belongs to; its folder's name where it has none, for it was written by hand."""
    try:
        tree = read_yaml_text(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):  # whoever loads the config says so
        tree = None
    metadata = tree.get("metadata") if isinstance(tree, dict) else None
    found = metadata.get("run_id") if isinstance(metadata, dict) else None
    return str(found or config.resolve().parent.name)


def version(package: str) -> str:
    """The installed version, or `not installed`."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def git_commit() -> str:
    """The commit of the checkout the code runs from, with `-dirty` if it was changed; `unknown` outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        described = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return described.stdout.strip()
