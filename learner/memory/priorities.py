"""Exact sampling in proportion to priority. Shapes never change, and nothing synchronizes with the host.

Pure torch. There is no tree. A draw chooses a slot in proportion to its sum, then an anchor in that slot in proportion to its
priority. Each choice is one cumulative sum and one search. A slot's sum is always computed from its whole row, so rounding
errors do not accumulate. All numbers are float64. Rounding changes a probability by a relative error of about 1e-12, and an
anchor of priority 0 is never drawn.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Priorities outside this range are refused: their sums would overflow, or be denormal numbers, which count as 0.
LEAST_PRIORITY, LARGEST_PRIORITY = 1e-100, 1e100


class Draw(NamedTuple):
    """B anchors, drawn with replacement."""

    slot: Tensor  # int64[B]
    anchor: Tensor  # int64[B]
    generation: Tensor  # int64[B], the slot's generation at the draw
    probability: Tensor  # float64[B], the probability of each draw


class Priorities:
    """The priorities of S slots with L anchors each. The priority of an anchor without a transition is 0."""

    def __init__(self, slots: int, steps: int, device: torch.device, max_priority: float = 1.0) -> None:
        """
        Args:
            max_priority: the largest priority so far. New transitions get it.
        """
        if not LEAST_PRIORITY <= max_priority <= LARGEST_PRIORITY:
            raise ValueError(f"the largest priority so far cannot be {max_priority}: it is a positive, finite number")
        self.values = torch.zeros((slots, steps), dtype=torch.float64, device=device)
        self.sums = torch.zeros(slots, dtype=torch.float64, device=device)
        self.generation = torch.zeros(slots, dtype=torch.int64, device=device)  # number of times each slot was filled
        self.largest = torch.full((), max_priority, dtype=torch.float64, device=device)  # so far; new transitions get it
        self.outdated = torch.zeros((), dtype=torch.int64, device=device)  # count of those not set: slot filled again
        self.unusable = torch.zeros((), dtype=torch.int64, device=device)  # count of those not set: NaN or out of range
        self._filled = torch.zeros((), dtype=torch.int64, device=device)  # a slot that has a transition

    def fill(self, slot: int, valid: Tensor) -> None:
        """Replaces a slot's transitions with new ones at the anchors `valid` (bool[L], at least one). O(L)."""
        self.values[slot] = 0.0
        self.generation[slot] += 1
        self._filled.fill_(slot)
        self.grow(slot, valid)

    def grow(self, slot: int, valid: Tensor) -> None:
        """Adds transitions to a slot. `valid` includes the anchors that were valid before; they keep their priorities. O(L)."""
        row = self.values[slot]
        torch.where(valid & (row == 0), self.largest, row, out=row)
        self.sums[slot] = row.sum()

    def draw(self, uniform: Tensor) -> Draw:
        """Draws one anchor for each column of `uniform`, float64[2, B] in [0, 1). O(S + B (log S + L)).

        There must be a transition. On a GPU, rounding can raise a cumulative sum where 0 is added, so that a search finds a
        slot or an anchor without transitions. Such a find is replaced.
        """
        cumulative = self.sums.cumsum(0)
        total = cumulative[-1]
        slot = torch.searchsorted(cumulative, uniform[0] * total, right=True).clamp(max=len(self.sums) - 1)
        slot = torch.where(self.sums[slot] > 0, slot, self._filled)
        row = self.values[slot]
        within = torch.where(row > 0, row.cumsum(1), 0.0)  # 0 is above no target, so such an anchor is never the first
        target = uniform[1] * within.amax(1)
        anchor = (within > target[:, None]).to(torch.uint8).argmax(1)
        probability = row.gather(1, anchor[:, None])[:, 0] / total
        return Draw(slot, anchor, self.generation[slot], probability)

    def set(self, draw: Draw, priorities: Tensor) -> None:
        """Sets the priorities, float64[B], of drawn anchors. If an anchor gets several, the largest one is set. O(B L).

        A priority is ignored and counted if its slot was filled again after the draw, or if it is NaN or out of range.
        """
        slot, steps = draw.slot, self.values.shape[1]
        is_current = draw.generation == self.generation[slot]
        is_usable = (priorities >= LEAST_PRIORITY) & (priorities <= LARGEST_PRIORITY)  # both are false for NaN
        holds = is_current & is_usable
        places = slot * steps + draw.anchor
        values, priorities = self.values.view(-1), torch.where(holds, priorities, 0.0)
        before = values[places]
        values.scatter_reduce_(0, places, priorities, "amax", include_self=False)
        after = values[places]
        values[places] = torch.where(after > 0, after, before)  # 0: all of the anchor's new priorities were ignored
        self.sums[slot] = self.values[slot].sum(1)
        torch.maximum(self.largest, priorities.amax(), out=self.largest)
        self.outdated += (~is_current).sum()
        self.unusable += (is_current & ~is_usable).sum()
