"""Checkpoints as directories of files that are either complete or recognisably not.

A checkpoint is `updates-<number>/` with its files and `manifest.json`, which holds each file's SHA-256. It is written under a
temporary name and renamed when everything is on disk. This module knows nothing about the contents of the files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sbrl.errors import RunError
from sbrl.storage.atomic import sync, write_durably

_MANIFEST = "manifest.json"
_PREFIX, _TEMPORARY = "updates-", ".writing-"
_NAME = re.compile(rf"{_PREFIX}(\d+)")


class CorruptCheckpointError(RunError):
    """A checkpoint whose files are missing, truncated or changed."""


def list_checkpoints(directory: Path) -> list[Path]:
    """Finished checkpoints in `directory`, oldest first; none if it does not exist."""
    if not directory.is_dir():
        return []
    found = [path for path in directory.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(found, key=updates_of)


def updates_of(checkpoint: Path) -> int:
    """The number of learner updates at the time of `checkpoint`, from its name."""
    match = _NAME.fullmatch(checkpoint.name)
    if match is None:
        raise RunError(f"{checkpoint} is no checkpoint: its name must be {_PREFIX}<number>")
    return int(match[1])


def find_checkpoint(directory: Path, updates: int) -> Path:
    """The checkpoint in `directory` taken after `updates` updates.

    Raises:
        RunError: there is none; the message names the existing ones.
    """
    checkpoints = list_checkpoints(directory)
    for checkpoint in checkpoints:
        if updates_of(checkpoint) == updates:
            return checkpoint
    known = ", ".join(str(updates_of(checkpoint)) for checkpoint in checkpoints) or "none"
    raise RunError(f"{directory} has no checkpoint of update {updates}; it has: {known}")


def write_checkpoint(directory: Path, updates: int, files: Mapping[str, bytes]) -> Path:
    """Writes a checkpoint, all or nothing. Replaces one of the same name.

    Raises:
        RunError: the file system refuses (no permission, no space).
    """
    final = directory / f"{_PREFIX}{updates:012d}"
    temporary = directory / f"{_TEMPORARY}{os.getpid()}"
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    manifest = json.dumps({"format": 1, "sha256": digests}, indent=2).encode()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        remove_unfinished(directory)
        temporary.mkdir()
        for name, data in {**files, _MANIFEST: manifest}.items():
            write_durably(temporary / name, data)
        sync(temporary)
        if final.exists():  # an unreadable one: the run went back to an earlier one and has reached this update again
            shutil.rmtree(final)
        temporary.rename(final)
        sync(directory)
    except OSError as error:
        raise RunError(f"cannot write checkpoint {final}: {error.strerror}") from error
    return final


def read_checkpoint_file(checkpoint: Path, name: str) -> bytes:
    """The bytes of one file of a checkpoint, checked against the manifest.

    Raises:
        CorruptCheckpointError: the file or the manifest is missing, unreadable or changed.
    """
    try:
        expected = json.loads((checkpoint / _MANIFEST).read_bytes())["sha256"][name]
        data = (checkpoint / name).read_bytes()
    except OSError as error:
        raise CorruptCheckpointError(f"checkpoint {checkpoint}: cannot read {error.filename}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CorruptCheckpointError(f"checkpoint {checkpoint}: {_MANIFEST} is damaged or does not list {name}") from None
    if hashlib.sha256(data).hexdigest() != expected:
        raise CorruptCheckpointError(f"checkpoint {checkpoint}: {name} was changed or cut short since it was written")
    return data


def read_checkpoint_json(checkpoint: Path, name: str) -> dict[str, Any]:
    """The JSON object in one file of a checkpoint.

    Raises:
        CorruptCheckpointError: as `read_checkpoint_file`, or the file does not hold a JSON object.
    """
    try:
        content = json.loads(read_checkpoint_file(checkpoint, name))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise CorruptCheckpointError(f"checkpoint {checkpoint}: {name} holds no JSON object")
    return content


def prune_checkpoints(directory: Path, newest: Path, keep: int) -> None:
    """Keeps `newest` and the keep - 1 checkpoints before it.

    Checkpoints of later updates are deleted, too: they could not be read, and the run went back to an earlier one.

    Raises:
        RunError: the file system refuses.
    """
    checkpoints = list_checkpoints(directory)
    end = checkpoints.index(newest) + 1
    for checkpoint in checkpoints[: max(0, end - keep)] + checkpoints[end:]:
        delete(checkpoint)


def delete(checkpoint: Path) -> None:
    """Raises RunError: the file system refuses."""
    try:
        shutil.rmtree(checkpoint)
    except OSError as error:
        raise RunError(f"cannot delete checkpoint {checkpoint}: {error.strerror}") from error


def remove_unfinished(directory: Path) -> None:
    """Deletes the unfinished checkpoints of killed writers."""
    for path in directory.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path)
