"""Adam or AdamW over named parameters, with gradient clipping and a state that can be saved, restored and partly forgotten."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sbrl.config import Learner
from sbrl.errors import RunError

BETA1 = 0.9  # decay of Adam's average of gradients (Kingma and Ba 2015)
_NORMS = (nn.LayerNorm, nn.GroupNorm)


class Optimizer:
    """Minimises a loss; moments are named <moment>/<parameter>, so that a checkpoint holds them as tensors by name."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], undecayed: Collection[str], settings: Learner) -> None:
        """
        Args:
            parameters: By name, all on one device.
            undecayed: Names of those without weight decay.
            settings: Read are learning_rate, adam_beta2, adam_epsilon, weight_decay and max_gradient_norm.
        """
        self._parameters = dict(parameters)
        self._max_norm = settings.max_gradient_norm
        self._norm: Tensor | None = None  # before clipping; known for every update only when there is clipping
        groups: list[dict[str, Any]] = [
            {"params": [parameter for name, parameter in parameters.items() if name not in undecayed]},
            {"params": [parameter for name, parameter in parameters.items() if name in undecayed], "weight_decay": 0.0},
        ]
        # AdamW without decay is Adam. Fused: one pass over parameters, gradients and moments in place of ten; on a CPU a third
        # of the time.
        self._adam = torch.optim.AdamW(
            groups,
            lr=settings.learning_rate,
            betas=(BETA1, settings.adam_beta2),
            eps=settings.adam_epsilon,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        for parameter in parameters.values():
            # Adam makes this at its first step; made here, it can be restored before that.
            self._adam.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    def minimise(self, loss: Tensor) -> None:
        """One step down the gradient of `loss`, a scalar."""
        self._adam.zero_grad(set_to_none=True)
        loss.backward()
        if self._max_norm is not None:
            self._norm = nn.utils.clip_grad_norm_(self._parameters.values(), self._max_norm)
        self._adam.step()

    def gradient_norm(self) -> Tensor:
        """float32[]: Euclidean norm of the last step's gradient, before clipping; without clipping all gradients are read.

        Raises:
            RunError: no step was made yet.
        """
        if self._norm is not None:
            return self._norm
        gradients = [parameter.grad for parameter in self._parameters.values() if parameter.grad is not None]
        if not gradients:
            raise RunError("the gradient norm is known only after an update")
        return nn.utils.get_total_norm(gradients)

    def moments(self) -> dict[str, Tensor]:
        """All there is to save; the tensors are the live ones."""
        return {
            f"{moment}/{name}": tensor
            for name, parameter in self._parameters.items()
            for moment, tensor in self._adam.state[parameter].items()
        }

    def forget(self, names: Collection[str]) -> None:
        """Sets these parameters' moments, and the steps their bias correction counts, back to zero."""
        for name in names:
            for tensor in self._adam.state[self._parameters[name]].values():
                tensor.zero_()


def undecayed_parameters(module: nn.Module) -> set[str]:
    """Names of the biases and of all parameters of normalisation layers: weight decay would only take their use away."""
    names = {name for name, parameter in module.named_parameters() if parameter.dim() < 2}
    for prefix, part in module.named_modules():
        if isinstance(part, _NORMS):
            names |= {f"{prefix}.{name}" for name, _ in part.named_parameters()}
    return names
