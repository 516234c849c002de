"""Compiles the update's parts with torch.compile if learner.compile asks for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from sbrl.config import Learner
from sbrl.errors import UsageError

Part = TypeVar("Part", bound=Callable[..., Any])
Compiler = Callable[[Part], Part]

# No CUDA graphs of its own: they would be nested in the block's. Random numbers as in eager mode, so that both draw the same.
_OPTIONS = {"triton.cudagraphs": False, "fallback_random": True}


def uncompiled(part: Part) -> Part:
    """Eager mode: the reference."""
    return part


def make_compiler(settings: Learner) -> Compiler[Any]:
    """The compiler that learner.compile asks for. A part that cannot be compiled as a whole fails at its first call.

    Raises:
        UsageError: the machine has no C++ compiler, which torch.compile needs on a CPU.
    """
    if settings.compile == "off":
        return uncompiled
    if settings.device == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise UsageError(
            f"learner.compile={settings.compile} needs a C++ compiler, and this machine has none of c++, g++, clang++ in its "
            f"PATH: install one, or set learner.compile=off"
        )
    options: dict[str, str | int | bool | Callable[..., Any]] = {**_OPTIONS, "max_autotune": settings.compile == "max-autotune"}
    return lambda part: torch.compile(part, fullgraph=True, dynamic=False, options=options)
