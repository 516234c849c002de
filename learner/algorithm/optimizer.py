"""Adam or AdamW over named parameters, with gradient clipping; state can be saved, restored and partly reset."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sbrl.config import Learner

BETA1 = 0.9  # decay of Adam's first moment (Kingma and Ba 2015)
_NORMS = (nn.LayerNorm, nn.GroupNorm)


class Gradient(NamedTuple):
    """The gradient that an update used. It stays on the device until it is read."""

    tensors: tuple[Tensor, ...]  # float32, of each parameter that has a gradient; after clipping
    norm_before_clipping: Tensor | None  # float32[]; None without clipping

    def norm(self) -> Tensor:
        """float32[]: the Euclidean norm before clipping. Without clipping it is computed here, from all tensors."""
        return nn.utils.get_total_norm(self.tensors) if self.norm_before_clipping is None else self.norm_before_clipping


class Optimizer:
    """Minimises a loss. Moments are named <moment>/<parameter>, so that a checkpoint can hold them as tensors by name."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], undecayed: Collection[str], settings: Learner) -> None:
        """
        Args:
            parameters: By name, all on one device.
            undecayed: Names of the parameters without weight decay.
            settings: Uses learning_rate, adam_beta2, adam_epsilon, weight_decay and max_gradient_norm.
        """
        self._parameters = dict(parameters)
        self._max_norm = settings.max_gradient_norm
        groups: list[dict[str, Any]] = [
            {"params": [parameter for name, parameter in parameters.items() if name not in undecayed]},
            {"params": [parameter for name, parameter in parameters.items() if name in undecayed], "weight_decay": 0.0},
        ]
        # AdamW without decay is Adam. Fused: one pass over parameters, gradients and moments instead of ten, which takes a
        # third of the time on a CPU.
        self._adam = torch.optim.AdamW(
            groups,
            lr=settings.learning_rate,
            betas=(BETA1, settings.adam_beta2),
            eps=settings.adam_epsilon,
            weight_decay=settings.weight_decay,
            fused=True,
            capturable=next(iter(parameters.values())).is_cuda,  # a graph counts steps on the device
        )
        for parameter in parameters.values():
            # Adam makes this state at its first step. Made here, it can be restored before that.
            self._adam.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    def minimise(self, loss: Tensor) -> Gradient:
        """Takes one step down the gradient of `loss`, a scalar. Does not wait for the device."""
        self._backward(loss)
        norm = None
        if self._max_norm is not None:
            norm = nn.utils.clip_grad_norm_(self._parameters.values(), self._max_norm)
        self._adam.step()
        return Gradient(tuple(p.grad for p in self._parameters.values() if p.grad is not None), norm)

    def _backward(self, loss: Tensor) -> None:
        self._adam.zero_grad(set_to_none=True)
        loss.backward()

    def moments(self) -> dict[str, Tensor]:
        """The state to save. The tensors are live."""
        return {
            f"{moment}/{name}": tensor
            for name, parameter in self._parameters.items()
            for moment, tensor in self._adam.state[parameter].items()
        }

    def forget(self, names: Collection[str]) -> None:
        """Resets these parameters' moments, and the step counts of their bias correction, to zero."""
        for name in names:
            for tensor in self._adam.state[self._parameters[name]].values():
                tensor.zero_()


def undecayed_parameters(module: nn.Module) -> set[str]:
    """Names of the biases and of all parameters of normalisation layers. Weight decay would defeat their purpose."""
    names = {name for name, parameter in module.named_parameters() if parameter.dim() < 2}
    for prefix, part in module.named_modules():
        if isinstance(part, _NORMS):
            names |= {f"{prefix}.{name}" for name, _ in part.named_parameters()}
    return names
