"""The records that pass through the learner."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class Batch(NamedTuple):
    """Transitions to learn from. B is the batch size; all tensors are on one device."""

    s_tm1: Tensor  # [B, stack, *frame_shape], uint8 or float32: what the agent saw
    a_tm1: Tensor  # int64[B]: what it did
    r_t: Tensor  # float32[B]: discounted sum of the next n rewards
    discount_t: Tensor  # float32[B]: discount ** n; 0 where the episode ended within these steps
    s_t: Tensor  # [B, stack, *frame_shape], uint8 or float32: what it saw n steps later
    probability: Tensor  # float64[B]: with which each was sampled

    def to(self, device: torch.device) -> Batch:
        """This batch on `device`; itself when it is there already."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))


class HostCopy:
    """A tensor on its way from an accelerator to the host; the host goes on meanwhile."""

    def __init__(self, tensor: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if tensor.is_cuda:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._host = tensor

    def numpy(self) -> npt.NDArray[Any]:
        """The values; waits for this copy, and for nothing the device was given afterwards."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.numpy()


class UpdateResult(NamedTuple):
    """What one update reports. Scalars stay on the device: reading one (`.item()`) waits for it, so do that for logs only."""

    loss: Tensor  # float32[]: mean over the batch, importance weights included
    mean_q: Tensor  # float32[]: mean over the batch of the online network's value of the action taken
    priorities: HostCopy  # float64[B]: new priority of each transition


class UpdateState(NamedTuple):
    """Everything an update changes; tensors are the live ones, not copies."""

    online: dict[str, Tensor]
    target: dict[str, Tensor]
    optimizer: dict[str, Tensor]  # <moment>/<parameter>, and step/<parameter>
    updates: int


class LearnerState(NamedTuple):
    """What a learner checkpoint holds."""

    update: UpdateState
    counters: dict[str, int | float]  # samples_trained, epoch, env_steps, ...
    random: dict[str, Any]  # see capture_random


def capture_random(**generators: np.random.Generator) -> dict[str, Any]:
    """The states of torch's global generator and of the named numpy generators, as values JSON can hold."""
    return {
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
        "numpy": {name: generator.bit_generator.state for name, generator in generators.items()},
    }


def restore_random(states: dict[str, Any], **generators: np.random.Generator) -> None:
    """Sets what `capture_random` captured; the names must be the same."""
    torch.set_rng_state(torch.frombuffer(bytearray.fromhex(states["torch"]), dtype=torch.uint8))
    for name, generator in generators.items():
        generator.bit_generator.state = states["numpy"][name]
