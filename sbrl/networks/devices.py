"""The device of a learner's updates.

The program `python -m sbrl.networks.devices NAME` checks whether a device can be used, for `sbrl.local.device_check`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sbrl.errors import UsageError
from sbrl.runtime.program import run_program


def find_device(name: str) -> torch.device:
    """The device called `name` (cpu, cuda, cuda:N).

    Raises:
        UsageError: the device is absent, or does not work.
    """
    device = torch.device(name)
    if device.type != "cuda":
        return device
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        raise UsageError(
            f"learner.device={name}: this machine or this build of torch has {count} CUDA devices; set learner.device=cpu"
        )
    try:
        torch.ones(1, device=device).add(1).item()
    except RuntimeError as error:  # for example an old driver, or memory that others hold
        raise UsageError(
            f"learner.device={name} cannot be used: {str(error).splitlines()[0]}; free it, or set learner.device=cpu"
        ) from None
    return device


def main(argv: Sequence[str]) -> None:
    find_device(argv[0])


if __name__ == "__main__":
    run_program(main)
