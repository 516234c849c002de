"""Weights as bytes and back: safetensors, never pickle, so that reading foreign bytes cannot run code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from sbrl.errors import RunError

Weights = dict[str, Tensor]  # by parameter name


def all_finite(tensors: Iterable[Tensor]) -> Tensor:
    """bool[]: whether all numbers in `tensors` are finite. Computed on their common device, without waiting for it.

    It tests sums, because one bad number makes the sum bad: this takes one pass over memory instead of several. So numbers
    whose sum exceeds the type's range count as infinite.
    """
    return torch.stack([tensor.detach().sum(dtype=torch.float32) for tensor in tensors]).sum().isfinite()


def encode(tensors: Mapping[str, Tensor]) -> bytes:
    """Named tensors, on any device and in any memory layout, as safetensors bytes."""
    data: bytes = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    return data


def decode(data: bytes) -> dict[str, Tensor]:
    """Named tensors on the CPU from `encode`'s bytes.

    Raises:
        RunError: the bytes are truncated or not safetensors, or contain a number that is not finite.
    """
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise RunError(f"weights of {len(data)} bytes are corrupt: {error}") from None
    for name, tensor in tensors.items():
        if not all_finite([tensor]):
            raise RunError(f"{name} holds numbers that are not finite: nobody can act with that or learn on")
    return tensors


def copy_tensors(into: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str) -> None:
    """Copies `tensors` into the tensors of the same names in `into`, all or none; for weights and optimizer state.

    Raises:
        RunError: names or shapes differ.
    """
    for name in sorted(into.keys() | tensors.keys()):
        expected = tuple(into[name].shape) if name in into else "nothing"
        found = tuple(tensors[name].shape) if name in tensors else "nothing"
        if expected != found:
            raise RunError(
                f"{source} do not fit the config's network: {name} is {found}, the network has {expected}; they come "
                f"from other agent settings or another environment"
            )
    with torch.no_grad():
        for name, tensor in into.items():
            tensor.copy_(tensors[name])
