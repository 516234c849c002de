"""Periodic resets against the loss of plasticity (SR-SPR, D'Oro et al. 2023; BBF, Schwarzer et al. 2023)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from learner.algorithm.optimizer import Optimizer
from learner.algorithm.schedules import ResetSchedule

logger = logging.getLogger(__name__)

# Prefixes of the parameters that are shrunk and perturbed. The rest (dense layer, head, SPR's predictor) is initialised again.
SHRUNK = ("torso.encoder.", "transition.")


class Resets:
    """Resets the networks on schedule. It has no state: everything follows from the number of updates."""

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
            keep: Fraction of the old value that a shrunk parameter keeps.
            fresh: Number of the reset, from 1 -> new initial values of all parameters, the same at each call.
            learned: The modules that the optimizer trains: the online network and the auxiliary module.
        """
        self.schedule, self._keep, self._fresh = schedule, keep, fresh
        self._learned, self._target, self._optimizer = learned, target, optimizer

    def after_update(self, updates: int) -> None:
        """Resets if a reset is due after this number of updates.

        Both networks are reset, or the target would teach what was just forgotten. New parameters get new optimizer moments;
        shrunk parameters keep theirs.
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
    """Moves parameters with a prefix in SHRUNK to keep * old + (1 - keep) * fresh, and sets the others to fresh.

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
