"""The update of every preset on fake CUDA tensors: shapes, dtypes and devices, without data or a GPU.

Under torch's FakeTensorMode, an operation that mixes devices fails. So does one that needs a value: `.item()`, a branch on a
tensor, or a mask of unknown size. A CPU build of torch tries to make CUDA the current device for every CUDA tensor. A library
of two lines allows that, but for a whole process, so this is a separate program. Autograd's engine also needs a CUDA stream,
which cannot be faked. So gradients are made up here with the right shapes, and `tests/unit/test_fixed_shapes.py` tests the
backward pass.

    python -m tests.fake_cuda GUARD.so PRESET ...       prints a line of JSON for each
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves

from learner.algorithm.optimizer import Optimizer
from learner.algorithm.schedules import HorizonSchedule
from learner.algorithm.spr import make_self_prediction
from learner.algorithm.update import UpdateStep
from learner.batches import MemoryBatches
from learner.block import Blocks
from learner.memory.replay import ReplayMemory
from sbrl import config
from sbrl.config import Config
from sbrl.config.presets import PRESETS
from sbrl.envs.spec import EnvSpec
from sbrl.networks.build import build_network
from sbrl.replay.segments import SegmentShape

CUDA = torch.device("cuda", 0)
SPECS = {
    "ALE": EnvSpec(6, (84, 84), np.dtype(np.uint8), 4, "frames", True),
    "MinAtar": EnvSpec(6, (10, 10, 4), np.dtype(np.uint8), 1, "grid", False),
    "CartPole-v1": EnvSpec(2, (4,), np.dtype(np.float32), 1, "vector", False),
}
_GUARD = """#include <c10/core/impl/DeviceGuardImplInterface.h>
C10_REGISTER_GUARD_IMPL(CUDA, c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>)
"""
_to, _generator = nn.Module.to, torch.Generator


def compile_guard(folder: Path, compiler: str) -> Path:
    """Compiles the library and returns its path."""
    source, library, torch_folder = folder / "guard.cpp", folder / "guard.so", Path(torch.__file__).parent
    source.write_text(_GUARD, encoding="utf-8")
    flags = ["-O0", "-shared", "-fPIC", "-std=c++20", f"-I{torch_folder / 'include'}", f"-L{torch_folder / 'lib'}"]
    subprocess.run([compiler, *flags, str(source), "-o", str(library), "-lc10"], check=True, timeout=300)
    return library


def main() -> None:
    library, *presets = sys.argv[1:]
    torch.ops.load_library(library)
    for preset in presets:
        settings = config.build(PRESETS[preset].settings)
        with fake_cuda():
            blocks = blocks_on_cuda(settings)
            for _ in range(2):
                drawn, result = blocks.update()
        tensors = [leaf for leaf in tree_leaves((drawn.batch, drawn.source, result)) if isinstance(leaf, Tensor)]
        found = {
            "preset": preset,
            "tensors": len(tensors),
            "devices": sorted({str(tensor.device) for tensor in tensors}),
            "batch": len(drawn.batch.s_t),
        }
        if preset == presets[0]:
            found["item"] = refused(settings, lambda r_t: r_t * r_t.sum().item())
            found["cpu"] = refused(settings, lambda r_t: r_t + torch.ones(1))
        print(json.dumps(found), flush=True)


def refused(settings: Config, spoil: Callable[[Tensor], Tensor]) -> str:
    """The name of the error that an update with spoilt rewards raises."""
    with fake_cuda():
        blocks = blocks_on_cuda(settings)
        step = blocks._step
        train = step.train
        with mock.patch.object(step, "train", lambda batch: train(batch._replace(r_t=spoil(batch.r_t)))):
            try:
                blocks.update()
            except RuntimeError as error:
                return type(error).__name__
    return "none"


def blocks_on_cuda(settings: Config) -> Blocks:
    spec = SPECS[settings.env.name.partition("/")[0]]
    step = UpdateStep(settings, spec, CUDA)
    shape = SegmentShape.of(spec, settings.agent.stored_steps)
    memory = ReplayMemory(shape, 1000, CUDA, seed=0, prioritized=settings.replay.prioritized)
    memory.size = 1000  # as if it were filled
    batches = MemoryBatches(memory, settings.agent, settings.learner.batch_size)
    return Blocks(step, batches, HorizonSchedule.of(settings), capture=lambda update: update)


@contextlib.contextmanager
def fake_cuda() -> Iterator[None]:
    """Within the context, tensors are fake, and a learner that is built for CUDA finds a device."""
    with contextlib.ExitStack() as stack:
        for make in (build_network, make_self_prediction):
            stack.enter_context(mock.patch(f"learner.algorithm.update.{make.__name__}", _really(make)))
        stack.enter_context(mock.patch.object(nn.Module, "to", _move))
        # A CPU build has neither CUDA's generators nor its events.
        stack.enter_context(mock.patch.object(torch, "Generator", _CpuGenerator))
        stack.enter_context(mock.patch("learner.block._Pace"))
        # A copied network's tensors belong to the same mode.
        stack.enter_context(mock.patch.object(FakeTensorMode, "__deepcopy__", lambda mode, memo: mode, create=True))
        stack.enter_context(mock.patch.object(Optimizer, "_backward", _made_up))
        stack.enter_context(FakeTensorMode())
        yield


def _made_up(optimizer: Optimizer, loss: Tensor) -> None:
    """Makes up a gradient for each parameter."""
    assert loss.grad_fn is not None
    for parameter in optimizer._parameters.values():
        parameter.grad = torch.empty_like(parameter)


class _CpuGenerator:
    """Replaces a CUDA generator."""

    def __new__(cls, device: object = "cpu") -> torch.Generator:  # type: ignore[misc]
        return _generator()


def _really(function: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Makes modules with real numbers on the CPU."""

    def call(*arguments: Any, **named: Any) -> nn.Module:
        with _disable_current_modes():
            return function(*arguments, **named)

    return call


def _move(module: nn.Module, *arguments: Any, **named: Any) -> nn.Module:
    """Moves to CUDA with new fake parameters. Other conversions work as usual."""
    if arguments != (CUDA,):
        return _to(module, *arguments, **named)
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(_fake(parameter))
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = _fake(buffer)
    return module


def _fake(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=CUDA)


if __name__ == "__main__":
    main()
