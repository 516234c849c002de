"""Selects the entries of one action."""

from __future__ import annotations

from torch import Tensor


def select_action(values: Tensor, action: Tensor) -> Tensor:
    """values[b, action[b]] for each b: [B, A, ...], int64[B] -> [B, ...]."""
    index = action.view(-1, *[1] * (values.dim() - 1)).expand(-1, 1, *values.shape[2:])
    return values.gather(1, index).squeeze(1)
