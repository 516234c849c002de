"""Where segments lie: columns of S slots on one device. May import torch, NumPy and the pure modules of sbrl.replay."""

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
    """The columns. S slots of W rows; what a slot holds is a segment.

    Frames are not written before they are needed. On a CPU the system commits their pages only then, so that memory is taken as
    it fills; CUDA has no such pages, and the whole memory is taken at the start: it fits from the beginning, or never.
    """

    frame: Tensor  # frame_dtype[S, W, *frame_shape]
    action: Tensor  # int32[S, W]
    reward: Tensor  # float32[S, W]
    discount: Tensor  # float32[S, W]
    weights_version: Tensor  # int32[S, W]

    @classmethod
    def empty(cls, shape: SegmentShape, slots: int, device: torch.device) -> Storage:
        """O(S W) without the frames."""
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
        """Puts a segment, or these rows of it, into a slot. O(rows) frames."""
        *columns, _ = segment  # its stream is the reader's
        for column, values in zip(self, staged([values[rows] for values in columns], self.frame.device), strict=True):
            column[slot, rows].copy_(values, non_blocking=True)

    def resident_bytes(self, shape: SegmentShape, used_slots: int) -> int:
        """What is taken now that so many slots have ever been written."""
        slots = len(self.frame)
        if self.frame.is_cuda:
            used_slots = slots
        return used_slots * shape.rows * frame_bytes(shape) + slots * small_bytes(shape)


def staged(arrays: Sequence[Any], device: torch.device) -> list[Tensor]:
    """Arrays as tensors that can be copied on `device` at once.

    On CUDA they travel on a stream of their own, while a block runs that was given before; the current stream waits for them
    only then. What they go into is written on the current stream, after that block: it may be reading the rows.
    """
    if device.type != "cuda":
        return [host_tensor(values, device) for values in arrays]
    current, side = torch.cuda.current_stream(device), _side_stream(device)
    with torch.cuda.stream(side):
        tensors = [host_tensor(values, device).to(device, non_blocking=True) for values in arrays]
    current.wait_stream(side)
    for tensor in tensors:
        tensor.record_stream(current)  # its memory is the side stream's, which must not give it away before it is read
    return tensors


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def host_tensor(values: Any, device: torch.device) -> Tensor:
    """An array as a tensor that `device` can be given without waiting for it; a read-only one, as TensorFlow's are, is copied.

    On the way to CUDA it is page-locked: torch keeps such memory until the device has read it.
    """
    tensor = torch.from_numpy(np.require(values, requirements=["C", "W"]))
    return tensor.pin_memory() if device.type == "cuda" else tensor
