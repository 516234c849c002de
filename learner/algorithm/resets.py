"""Periodic resets against the loss of plasticity (SR-SPR, D'Oro et al. 2023; BBF, Schwarzer et al. 2023)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from learner.algorithm.optimizer import Optimizer
from learner.algorithm.schedules import ResetSchedule

logger = logging.getLogger(__name__)

# What is shrunk and perturbed, by the beginning of its name. The rest (dense layer, head, SPR's predictor) starts again.
SHRUNK = ("torso.encoder.", "transition.")


class Resets:
    """Resets the networks when the schedule says so. It has no state: what happens follows from the number of updates."""

    def __init__(
        self,
        schedule: ResetSchedule,
        keep: float,
        fresh: Callable[[int], Mapping[str, Tensor]],
        learned: Sequence[nn.Module],
        target: nn.Module,
        optimizer: Optimizer,
    ) -> None:
        """
        Args:
            keep: Part of its old value that a shrunk parameter keeps.
            fresh: Number of the reset, from 1 -> new initial values of all parameters, the same whenever it is asked.
            learned: What the optimizer trains: the online network, and what is trained beside it.
        """
        self.schedule, self._keep, self._fresh = schedule, keep, fresh
        self._learned, self._target, self._optimizer = learned, target, optimizer

    def after_update(self, updates: int) -> None:
        """Resets if it is due after so many updates: both networks alike, or the target would teach what was just forgotten.

        New parameters get new moments of the optimizer; shrunk ones keep theirs.
        """
        if not self.schedule.is_due(updates):
            return
        number = self.schedule.resets(updates)
        fresh = self._fresh(number)
        renewed: list[str] = []
        for module in self._learned:
            renewed += reset(module, fresh, self._keep)
        reset(self._target, fresh, self._keep)
        self._optimizer.forget(renewed)
        logger.info("reset %d after update %d: %d parameters renewed", number, updates, len(renewed))


def reset(module: nn.Module, fresh: Mapping[str, Tensor], keep: float) -> list[str]:
    """Moves the parameters whose names begin with one of SHRUNK to keep * old + (1 - keep) * fresh, sets the others to fresh.

    Returns:
        the names of the others.
    """
    renewed = []
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.startswith(SHRUNK):
                parameter.lerp_(fresh[name].to(parameter.device), 1 - keep)
            else:
                parameter.copy_(fresh[name])
                renewed.append(name)
    return renewed
