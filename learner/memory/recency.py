"""Sampling by age: the truncated geometric law, with shapes that never change and no word from the host. Pure torch."""

from __future__ import annotations

import torch
from torch import Tensor

from learner.memory.priorities import Draw, Priorities


class Recency(Priorities):
    """Of N transitions that which is k transitions old, 0 <= k < N, is drawn with probability r^k (1 - r) / (1 - r^N).

    r = 1 - 1 / horizon. Age is counted in transitions, in the order in which segments came; anchors of one segment are in the
    order of their steps. Segments of several environments grow side by side, so that k is off by some segments' length there.
    """

    def __init__(self, slots: int, steps: int, device: torch.device, horizon: int) -> None:
        """
        Args:
            horizon: mean age of what is drawn from many more transitions, 2 at least.
        """
        super().__init__(slots, steps, device)
        self._log_keep = torch.log1p(torch.full((), -1 / horizon, dtype=torch.float64, device=device))  # log r
        self._slots = torch.arange(slots, device=device)
        self._newest = torch.zeros((), dtype=torch.int64, device=device)

    def newest(self, slot: int) -> None:
        """The slot of the newest segment; older ones are in those before it, round the ring."""
        self._newest.fill_(slot)

    def draw(self, uniform: Tensor) -> Draw:
        """As `Priorities.draw`, by age; of `uniform` the first row decides."""
        order = (self._newest - self._slots) % len(self._slots)  # slots by age, the newest first
        counts = self.sums[order]  # all priorities are 1
        until = counts.cumsum(0)  # exact: whole numbers below 2^53
        total = until[-1]
        share = -torch.expm1(total * self._log_keep)  # 1 - r^N
        age = (torch.log1p(-uniform[0] * share) / self._log_keep).floor().clamp(min=0)
        age = torch.minimum(age, total - 1)  # rounding may give N
        place = torch.searchsorted(until, age, right=True).clamp(max=len(order) - 1)
        slot = order[place]
        newer = age - (until[place] - counts[place])  # of the slot's own
        rank = (self.values[slot] > 0).cumsum(1)
        anchor = (rank == (counts[place] - newer)[:, None]).to(torch.uint8).argmax(1)
        probability = torch.exp(age * self._log_keep) * -torch.expm1(self._log_keep) / share
        return Draw(slot, anchor, self.generation[slot], probability)
