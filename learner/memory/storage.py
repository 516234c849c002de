"""Stores segments as columns of S slots on one device. Imports only torch, NumPy and pure modules of sbrl.replay."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sbrl.replay.sampling import frame_bytes, small_bytes
from sbrl.replay.segments import PADDING, Segment, SegmentShape


class Storage(NamedTuple):
    """The columns: S slots of W rows. A slot holds one segment.

    Frames are not initialized. On a CPU the system commits their pages when they are first written, so memory use grows as the
    slots fill. CUDA allocates all of it at the start.
    """

    frame: Tensor  # frame_dtype[S, W, *frame_shape]
    action: Tensor  # int32[S, W]
    reward: Tensor  # float32[S, W]
    discount: Tensor  # float32[S, W]
    weights_version: Tensor  # int32[S, W]

    @classmethod
    def empty(cls, shape: SegmentShape, slots: int, device: torch.device) -> Storage:
        """Allocates the columns. O(S W); frames are not written."""
        rows = (slots, shape.rows)
        frame_dtype = torch.from_numpy(np.zeros(0, shape.frame_dtype)).dtype
        return cls(
            frame=torch.empty((*rows, *shape.frame_shape), dtype=frame_dtype, device=device),
            action=torch.full(rows, PADDING, dtype=torch.int32, device=device),
            reward=torch.zeros(rows, device=device),
            discount=torch.zeros(rows, device=device),
            weights_version=torch.zeros(rows, dtype=torch.int32, device=device),
        )

    def write(self, slot: int, segment: Segment, rows: slice = slice(None)) -> None:
        """Writes a segment, or these rows of it, into a slot. O(rows) frames."""
        *columns, _ = segment  # the stream is not stored
        for column, values in zip(self, staged([values[rows] for values in columns], self.frame.device), strict=True):
            column[slot, rows].copy_(values, non_blocking=True)

    def resident_bytes(self, shape: SegmentShape, used_slots: int) -> int:
        """The bytes in use once `used_slots` slots have been written."""
        slots = len(self.frame)
        if self.frame.is_cuda:
            used_slots = slots
        return used_slots * shape.rows * frame_bytes(shape) + slots * small_bytes(shape)


def staged(arrays: Sequence[Any], device: torch.device) -> list[Tensor]:
    """The arrays as tensors on `device`, for copies on the current stream.

    On CUDA a side stream transfers them while the current stream still runs an earlier block. The current stream then waits for
    the transfer. The caller writes them into the storage on the current stream, because that block may be reading the rows.
    """
    if device.type != "cuda":
        return [host_tensor(values, device) for values in arrays]
    current, side = torch.cuda.current_stream(device), _side_stream(device)
    with torch.cuda.stream(side):
        tensors = [host_tensor(values, device).to(device, non_blocking=True) for values in arrays]
    current.wait_stream(side)
    for tensor in tensors:
        tensor.record_stream(current)  # the side stream must not reuse its memory before it is read
    return tensors


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def host_tensor(values: Any, device: torch.device) -> Tensor:
    """The array as a host tensor that can be copied to `device` without waiting. A read-only array (TensorFlow's) is copied.

    For CUDA the tensor is page-locked. Torch keeps such memory until the device has read it.
    """
    tensor = torch.from_numpy(np.require(values, requirements=["C", "W"]))
    return tensor.pin_memory() if device.type == "cuda" else tensor
