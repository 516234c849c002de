"""The learner's checkpoints: their content, and which one to resume from."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from learner.records import UpdateState
from sbrl.errors import RunError
from sbrl.networks.serialization import decode, encode
from sbrl.storage.checkpoints import (
    CorruptCheckpointError,
    list_checkpoints,
    prune_checkpoints,
    read_checkpoint_file,
    read_checkpoint_json,
    updates_of,
    write_checkpoint,
)

_logger = logging.getLogger(__name__)
_STATE = "state.json"
_TENSORS = ("online", "target", "auxiliary", "optimizer")  # fields of UpdateState, each a file of its own


class SavedLearner(NamedTuple):
    """The content of a learner's checkpoint."""

    update: UpdateState
    counters: dict[str, int | float]  # samples_trained, max_priority, ...
    random: dict[str, Any]  # see capture_random
    received: dict[str, Any]  # the states of Ratio and Receipts: samples trained, and transitions received


class CheckpointStore:
    """The newest `keep` checkpoints of one learner in `directory`; files are safetensors and JSON, never pickle."""

    def __init__(self, directory: Path, keep: int) -> None:
        self._directory = directory
        self._keep = keep

    def checkpoints(self) -> list[Path]:
        """Finished checkpoints, oldest first."""
        return list_checkpoints(self._directory)

    def save(self, state: SavedLearner) -> Path:
        """Writes `state` atomically, then deletes all but the newest `keep` checkpoints.

        Raises:
            RunError: the file system refuses (no permission, no space).
        """
        update = state.update
        tensors = {name: getattr(update, name) for name in _TENSORS}
        files = {f"{name}.safetensors": encode(values) for name, values in tensors.items()}
        content = {"counters": state.counters, "random": state.random, "received": state.received}
        files[_STATE] = json.dumps(content).encode()
        checkpoint = write_checkpoint(self._directory, update.updates, files)
        prune_checkpoints(self._directory, checkpoint, self._keep)
        return checkpoint

    def load_newest(self) -> SavedLearner | None:
        """The newest readable checkpoint; None if there are no checkpoints. Warns of each one that cannot be read.

        Raises:
            RunError: there are checkpoints, but none can be read.
        """
        checkpoints = self.checkpoints()
        for checkpoint in reversed(checkpoints):
            try:
                return load(checkpoint)
            except CorruptCheckpointError as error:
                _logger.warning("%s; trying the one before", error)
        if checkpoints:
            raise RunError(f"none of the {len(checkpoints)} checkpoints in {self._directory} can be read; start a new run")
        return None


def load(checkpoint: Path) -> SavedLearner:
    """Reads one checkpoint.

    Raises:
        CorruptCheckpointError: a file is missing, truncated or changed, or holds wrong or non-finite values.
    """
    state = read_checkpoint_json(checkpoint, _STATE)
    counters, random, received = (state.get(name) for name in ("counters", "random", "received"))
    if received is None and isinstance(counters, dict) and isinstance(random, dict) and "torch" in random:
        raise RunError(
            f"checkpoint {checkpoint} is of an earlier version of SBRL, whose replay kept the ratio: start a new run "
            f"directory, or go on with the version that wrote it"
        )
    if not (isinstance(counters, dict) and isinstance(random, dict) and isinstance(received, dict)) or not all(
        map(_is_number, counters.values())
    ):
        raise CorruptCheckpointError(
            f"checkpoint {checkpoint}: {_STATE} holds no counters, random states and receipts of a learner"
        )
    tensors = {}
    for name in _TENSORS:
        data = read_checkpoint_file(checkpoint, f"{name}.safetensors")
        try:
            tensors[name] = decode(data)
        except RunError as error:
            raise CorruptCheckpointError(f"checkpoint {checkpoint}: {name}.safetensors: {error}") from None
    return SavedLearner(UpdateState(**tensors, updates=updates_of(checkpoint)), counters, random, received)


def capture_random() -> dict[str, Any]:
    """The states of torch's global generators, as values that JSON can hold."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"torch": _to_hex(torch.get_rng_state()), "cuda": [_to_hex(state) for state in cuda]}


def restore_random(states: dict[str, Any]) -> None:
    """Restores what `capture_random` captured. Devices that are gone are skipped.

    Raises:
        RunError: the states are malformed, or are from another version of torch.
    """
    try:
        torch.set_rng_state(_from_hex(states["torch"]))
        for device, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(_from_hex(state), device)
    except (LookupError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise RunError(
            f"the checkpoint's random states cannot be used ({error}): they are damaged, or of another version of torch; "
            f"go on with the versions that constraints.txt names"
        ) from None


def _to_hex(state: Tensor) -> str:
    return state.numpy().tobytes().hex()


def _from_hex(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
