"""Sampling by age, from a truncated geometric distribution. Pure torch.

Shapes never change, and nothing synchronizes with the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.memory.priorities import Draw, Priorities


class Recency(Priorities):
    """Draws the transition of age k, 0 <= k < N, with probability r^k (1 - r) / (1 - r^N), where r = 1 - 1 / horizon.

    N is the number of transitions in the memory. A transition's age is the number of newer transitions. Segments are ordered by
    arrival, and the anchors of a segment by their steps. If several environments write segments at the same time, an age can be
    wrong by the length of a few segments.
    """

    def __init__(self, slots: int, steps: int, device: torch.device, horizon: int) -> None:
        """
        Args:
            horizon: the mean age of a draw if N is much larger; at least 2.
        """
        super().__init__(slots, steps, device)
        self._log_keep = torch.log1p(torch.full((), -1 / horizon, dtype=torch.float64, device=device))  # log r
        self._slots = torch.arange(slots, device=device)
        self._newest = torch.zeros((), dtype=torch.int64, device=device)

    def newest(self, slot: int) -> None:
        """Tells which slot has the newest segment. The slots before it on the ring have the older ones."""
        self._newest.fill_(slot)

    def draw(self, uniform: Tensor) -> Draw:
        """Like `Priorities.draw`, but by age. Only the first row of `uniform` is used."""
        order = (self._newest - self._slots) % len(self._slots)  # slots by age, newest first
        counts = self.sums[order]  # all priorities are 1
        until = counts.cumsum(0)  # exact: whole numbers below 2^53
        total = until[-1]
        share = -torch.expm1(total * self._log_keep)  # 1 - r^N
        age = (torch.log1p(-uniform[0] * share) / self._log_keep).floor().clamp(min=0)
        age = torch.minimum(age, total - 1)  # rounding may give N
        place = torch.searchsorted(until, age, right=True).clamp(max=len(order) - 1)
        slot = order[place]
        newer = age - (until[place] - counts[place])  # number of newer transitions in the same slot
        rank = (self.values[slot] > 0).cumsum(1)
        anchor = (rank == (counts[place] - newer)[:, None]).to(torch.uint8).argmax(1)
        probability = torch.exp(age * self._log_keep) * -torch.expm1(self._log_keep) / share
        return Draw(slot, anchor, self.generation[slot], probability)
