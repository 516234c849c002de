"""Sets the precision that learner.precision asks for."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext

import torch

from sbrl.config import Learner

logger = logging.getLogger(__name__)


def configure_precision(settings: Learner) -> None:
    """Configures the process, and warns if the chosen precision will be slow."""
    if settings.precision == "tf32":
        torch.set_float32_matmul_precision("high")
    if settings.precision == "bfloat16" and settings.device == "cpu" and not torch.cpu._is_avx512_bf16_supported():
        logger.warning("learner.precision=bfloat16, but this processor has no instructions for it: float32 would be faster")


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The context for the networks' passes. Weights stay float32."""
    if precision != "bfloat16":
        return nullcontext()
    # The cache of cast weights lives as long as the context: one update. So a CUDA graph of the update can hold it.
    return torch.autocast(device.type, dtype=torch.bfloat16)
