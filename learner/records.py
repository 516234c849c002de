"""The records that the learner's parts exchange."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor, nn

from learner.algorithm.measures import mean_td_error
from learner.algorithm.optimizer import Gradient
from sbrl.networks.network import ValueNetwork


class Sequence(NamedTuple):
    """What followed each s_tm1 of a batch, for self-prediction; K is the number of jumps."""

    observation: Tensor  # [B, K, stack, *frame_shape], uint8 or float32: what the agent saw 1 .. K steps later
    action: Tensor  # int64[B, K]: what it did from s_tm1 on; 0 where not valid
    valid: Tensor  # bool[B, K]: the episode went on at least that long


class Batch(NamedTuple):
    """Transitions to learn from. B is the batch size; all tensors are on one device."""

    s_tm1: Tensor  # [B, stack, *frame_shape], uint8 or float32: what the agent saw
    a_tm1: Tensor  # int64[B]: what it did
    r_t: Tensor  # float32[B]: the discounted sum of the next n rewards
    discount_t: Tensor  # float32[B]: discount ** n; 0 where the episode ended within these steps
    s_t: Tensor  # [B, stack, *frame_shape], uint8 or float32: what it saw n steps later
    probability: Tensor  # float64[B]: the probability with which each was sampled
    sequence: Sequence | None = None  # only where self-prediction is on
    # Importance weights are relative to this: the least probability in the latest batches of all shards. None: in this batch.
    least_probability: float | None = None

    def sum_of_numbers(self) -> Tensor:
        """float32[]: the sum of rewards and, unless they are bytes, observations; not finite if any of them is not."""
        numbers = [self.r_t] if self.s_t.dtype == torch.uint8 else [self.r_t, self.s_tm1, self.s_t]
        return torch.stack([tensor.sum() for tensor in numbers]).sum()

    def to(self, device: torch.device) -> Batch:
        """This batch on `device`. Tensors that are already there are not copied."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return Batch(
            s_tm1=move(self.s_tm1),
            a_tm1=move(self.a_tm1),
            r_t=move(self.r_t),
            discount_t=move(self.discount_t),
            s_t=move(self.s_t),
            probability=move(self.probability),
            sequence=None if self.sequence is None else Sequence(*map(move, self.sequence)),
            least_probability=self.least_probability,
        )


class Networks(NamedTuple):
    """The networks that an update trains, and the target network."""

    online: ValueNetwork
    target: ValueNetwork  # gets no gradient
    auxiliary: nn.Module  # trained beside the network, not used to act: self-prediction's parameters; often empty


class HostCopy:
    """An asynchronous copy of a tensor from an accelerator to the host."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor  # on its device
        self._event: torch.cuda.Event | None = None
        if tensor.is_cuda:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._host = tensor

    def numpy(self) -> npt.NDArray[Any]:
        """The values. Waits for this copy, but not for later work of the device."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.numpy()


class UpdateResult(NamedTuple):
    """Results of one update. Scalars stay on the device: reading one (`.item()`) waits for it, so do that for logs only."""

    loss: Tensor  # float32[]: the value loss; mean over the batch, with importance weights
    spr_loss: Tensor  # float32[]: the self-prediction loss, 0 to 4; mean likewise, without agent.spr_weight; 0 if it is off
    q_tm1: Tensor  # float32[B]: the online network's value of the action taken
    target: Tensor  # float32[B, M]: the target of q_tm1: samples with that mean, or the target alone (M = 1)
    priorities: Tensor  # float64[B]: new priority of each transition
    gradient: Gradient

    # Computed on demand: even a few extra passes over small tensors slow each update down on a GPU.

    def mean_q(self) -> Tensor:
        """float32[]: mean over the batch of the online network's value of the action taken."""
        return self.q_tm1.mean()

    def td_error(self) -> Tensor:
        """float32[]: mean over the batch of |target - q_tm1|, without importance weights."""
        return mean_td_error(self.target, self.q_tm1)


class UpdateState(NamedTuple):
    """Everything that an update changes. The tensors are live, not copies."""

    online: dict[str, Tensor]
    target: dict[str, Tensor]
    auxiliary: dict[str, Tensor]  # trained beside the network, not used to act: self-prediction's parameters; often empty
    optimizer: dict[str, Tensor]  # <moment>/<parameter>, and step/<parameter>
    updates: int
