"""A run's id, the versions it was made with, and its git commit, at the head of its run.yaml."""

from __future__ import annotations

import os
import platform
import re
import secrets
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sbrl.errors import UsageError
from sbrl.yaml_text import read_yaml_text

if TYPE_CHECKING:
    from sbrl.envs.spec import EnvSpec  # it loads NumPy, but every program needs the run's id

PACKAGES = ("sbrl", "torch", "dm-reverb", "tensorflow-cpu", "numpy", "gymnasium", "ale-py")


def run_metadata(run_id: str, spec: EnvSpec) -> dict[str, Any]:
    """The run's id, its environment's spec, versions of the main packages, the git commit and the time."""
    return {
        "run_id": run_id,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "git_commit": git_commit(),
        "platform": platform.platform(),
        "hardware": hardware(),
        "environment": spec.to_plain(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def new_run_id(env_id: str) -> str:
    """A unique name that people can tell from others: game, time, eight random digits."""
    return f"{game_of(env_id)}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"


def game_of(env_id: str) -> str:
    """The common name of an environment: ale_py:ALE/Pong-v5 gives pong."""
    return re.split("[:/]", env_id)[-1].partition("-")[0].lower()


def run_id_of(config: Path) -> str:
    """The id of the run of a run.yaml; the folder's name if the file was written by hand and has no id."""
    return str(metadata_of(config).get("run_id") or config.resolve().parent.name)


def check_same_environment(config: Path, env_id: str, spec: EnvSpec) -> None:
    """
    Raises:
        UsageError: `spec` differs from the environment's spec at the beginning of the run with this run.yaml.
    """
    try:
        before = spec.of_plain(metadata_of(config)["environment"])
    except (LookupError, TypeError, ValueError):  # the run began with a version that did not record it
        return
    changed = [
        f"{name} {was!r} is now {now!r}"
        for name, was, now in zip(spec._fields, before.to_plain().values(), spec.to_plain().values(), strict=True)
        if was != now
    ]
    if changed:
        raise UsageError(
            f"env.id={env_id} has changed since the run began: {', '.join(changed)}; the run's network and its stored "
            f"transitions were made with it: put the environment back as it was, or start a new run"
        )


def metadata_of(config: Path) -> dict[str, Any]:
    """The result of `run_metadata`; empty if it cannot be read, which loading the config reports."""
    try:
        tree = read_yaml_text(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    metadata = tree.get("metadata") if isinstance(tree, dict) else None
    return metadata if isinstance(metadata, dict) else {}


def hardware() -> str:
    """The processor and the number of cores that this process may use, such as `AMD EPYC 7B13, 2 cores`."""
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def version(package: str) -> str:
    """The installed version, or `not installed`."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def git_commit() -> str:
    """The commit of the checkout that the code runs from, with `-dirty` if changed; `unknown` outside a checkout."""
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
