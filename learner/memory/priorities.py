"""Sampling in proportion to priority, exact, with shapes that never change and no word from the host.

Pure torch. There is no tree: a draw chooses a slot in proportion to its sum, and an anchor within it in proportion to its
priority, each by one cumulative sum and one search. A sum is always computed from its own row, so that no error builds up. All
numbers are float64: rounding moves a probability by some 1e-12 of itself, and never gives an anchor of priority 0 any.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Priorities beyond these are refused: sums of them would overflow, or be denormal numbers, which count as 0.
LEAST_PRIORITY, LARGEST_PRIORITY = 1e-100, 1e100


class Draw(NamedTuple):
    """Anchors drawn, with replacement; B of them."""

    slot: Tensor  # int64[B]
    anchor: Tensor  # int64[B]
    generation: Tensor  # int64[B], of the slot when it was drawn
    probability: Tensor  # float64[B], of each draw


class Priorities:
    """The priorities of S slots with L anchors each, 0 where an anchor has no transition."""

    def __init__(self, slots: int, steps: int, device: torch.device, largest: float = 1.0) -> None:
        """
        Args:
            largest: priority of the first transitions.
        """
        if not LEAST_PRIORITY <= largest <= LARGEST_PRIORITY:
            raise ValueError(f"the largest priority so far cannot be {largest}: it is a positive, finite number")
        self.values = torch.zeros((slots, steps), dtype=torch.float64, device=device)
        self.sums = torch.zeros(slots, dtype=torch.float64, device=device)
        self.generation = torch.zeros(slots, dtype=torch.int64, device=device)  # how often a slot was filled
        self.largest = torch.full((), largest, dtype=torch.float64, device=device)  # so far: new transitions are given it
        self.outdated = torch.zeros((), dtype=torch.int64, device=device)  # not set: their slot was filled again meanwhile
        self.unusable = torch.zeros((), dtype=torch.int64, device=device)  # not set: not finite, not positive, or far out
        self._filled = torch.zeros((), dtype=torch.int64, device=device)  # a slot that has a transition

    def fill(self, slot: int, valid: Tensor) -> None:
        """New transitions in a slot, at the anchors `valid` (bool[L], one at least). O(L)."""
        self.values[slot] = 0.0
        self.generation[slot] += 1
        self._filled.fill_(slot)
        self.grow(slot, valid)

    def grow(self, slot: int, valid: Tensor) -> None:
        """More transitions in the same slot; what was valid before is so still, and keeps its priority. O(L)."""
        row = self.values[slot]
        torch.where(valid & (row == 0), self.largest, row, out=row)
        self.sums[slot] = row.sum()

    def draw(self, uniform: Tensor) -> Draw:
        """One anchor for each column of `uniform`, float64[2, B] in [0, 1). O(S + B (log S + L)).

        There must be a transition. A GPU's cumulative sum may rise by rounding where nothing is added: what such a search finds
        is replaced.
        """
        cumulative = self.sums.cumsum(0)
        total = cumulative[-1]
        slot = torch.searchsorted(cumulative, uniform[0] * total, right=True).clamp(max=len(self.sums) - 1)
        slot = torch.where(self.sums[slot] > 0, slot, self._filled)
        row = self.values[slot]
        within = torch.where(row > 0, row.cumsum(1), 0.0)  # 0 is beyond no target: such an anchor is never the first
        target = uniform[1] * within.amax(1)
        anchor = (within > target[:, None]).to(torch.uint8).argmax(1)
        probability = row.gather(1, anchor[:, None])[:, 0] / total
        return Draw(slot, anchor, self.generation[slot], probability)

    def set(self, draw: Draw, priorities: Tensor) -> None:
        """New priorities, float64[B], of what was drawn; of several for one anchor the largest holds. O(B L).

        Those of slots that were filled again since, and those that are not positive and finite, change and set nothing.
        """
        slot, steps = draw.slot, self.values.shape[1]
        is_current = draw.generation == self.generation[slot]
        is_usable = (priorities >= LEAST_PRIORITY) & (priorities <= LARGEST_PRIORITY)  # neither is true of NaN
        holds = is_current & is_usable
        places = slot * steps + draw.anchor
        values, priorities = self.values.view(-1), torch.where(holds, priorities, 0.0)
        before = values[places]
        values.scatter_reduce_(0, places, priorities, "amax", include_self=False)
        after = values[places]
        values[places] = torch.where(after > 0, after, before)  # 0: none that was given for the anchor holds
        self.sums[slot] = self.values[slot].sum(1)
        torch.maximum(self.largest, priorities.amax(), out=self.largest)
        self.outdated += (~is_current).sum()
        self.unusable += (is_current & ~is_usable).sum()
