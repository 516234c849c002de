"""Gathers n-step transitions, and what followed them, from segments. Pure torch. Shapes do not depend on n.

The formulas are those of `sbrl.replay.items`. With m = min(n, steps until the episode's end),

    r_t        = sum_{k<m} gamma^k (prod_{j<k} d_j) r_k
    discount_t = gamma^m prod_{j<m} d_j
    s_t        = the stack m steps after s_tm1
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.memory.storage import Storage
from learner.records import Batch, Sequence
from sbrl.replay.segments import PADDING, SegmentShape


class Windows:
    """Reads B windows of a storage at once. A window is given by its first row, counted through all slots."""

    def __init__(self, storage: Storage, shape: SegmentShape) -> None:
        device = storage.frame.device
        self._shape = shape
        self._action, self._version = storage.action.view(-1), storage.weights_version.view(-1)
        self._reward, self._discount = storage.reward.view(-1), storage.discount.view(-1)
        self._frame = storage.frame.view(storage.action.numel(), -1)
        self._k = torch.arange(shape.n_max, device=device)
        self._stack = torch.arange(shape.stack, device=device)

    def n_step(self, first: Tensor, probability: Tensor, n_step: int | Tensor, discount: float | Tensor) -> Batch:
        """The transitions of windows. O(B (stack frames + n_max)).

        Args:
            first: int64[B].
            probability: float64[B], the probability with which each was drawn.
            n_step: n, from 1 to n_max, as a number or a scalar tensor.
            discount: gamma, the discount factor of one step, as a number or a scalar tensor.
        """
        steps_at = self._steps_at(first)
        action = self._action[steps_at]
        # All steps of a window come before its padding. So the taken rows are those before the first one that is not taken.
        taken = ((action != PADDING) & (self._k < n_step)).cumprod(1).bool()
        steps = taken.sum(1)
        alive_after = torch.where(taken, self._discount[steps_at], 1.0).double().cumprod(1)
        alive_before = alive_after.roll(1, 1)
        alive_before[:, 0] = 1.0
        reward = torch.where(taken, self._reward[steps_at], 0.0).double()
        r_t = (_power(discount, self._k) * alive_before * reward).sum(1)
        discount_t = _power(discount, steps) * alive_after[:, -1]
        s_tm1, s_t = self._stacks(torch.stack((first, first + steps))).unbind(0)
        return Batch(s_tm1, action[:, 0].long(), r_t.float(), discount_t.float(), s_t, probability)

    def sequence(self, first: Tensor, jumps: int) -> Sequence:
        """What followed the first observations of windows, up to `jumps` <= n_max steps later. O(B jumps stack frames).

        An observation is valid if all steps before it were taken and none of them ended in a terminal state. After that the
        window holds the next life, padding or the next episode. The last observation of a truncated episode is valid.
        """
        steps_at = self._steps_at(first)[:, :jumps]
        action = self._action[steps_at]
        valid = ((action != PADDING) & (self._discount[steps_at] != 0)).cumprod(1).bool()
        observation = self._stacks(first[:, None] + self._k[:jumps] + 1)
        return Sequence(observation, torch.where(valid, action, 0).long(), valid)

    def weights_version(self, first: Tensor) -> Tensor:
        """int32[B]: the version of the weights that chose the action of each window's first step."""
        return self._version[first + self._shape.stack - 1]

    def _steps_at(self, first: Tensor) -> Tensor:
        """int64[B, n_max]: the rows of the windows' steps."""
        return first[:, None] + self._k + (self._shape.stack - 1)

    def _stacks(self, first: Tensor) -> Tensor:
        """frame_dtype[..., stack, *frame_shape]: the stacks that begin at the rows `first`, int64[...]."""
        rows = first[..., None] + self._stack
        return self._frame.index_select(0, rows.view(-1)).view(*rows.shape, *self._shape.frame_shape)


def _power(base: float | Tensor, exponent: Tensor) -> Tensor:
    """base ** exponent in float64."""
    return (base.double() if isinstance(base, Tensor) else base) ** exponent.double()
