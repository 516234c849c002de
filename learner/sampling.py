"""Whether the learner holds the replay itself (cached) or samples it from Reverb (remote). Pure but for reading limits."""

from __future__ import annotations

from typing import NamedTuple

import torch

from sbrl.config import Config
from sbrl.errors import UsageError
from sbrl.memory import memory_limit_bytes

# Of what the process may use, what is left for the network, its gradients, libraries, and other processes of a local run.
MEMORY_SHARE = 0.7


class Choice(NamedTuple):
    """What was chosen, and why, for the log."""

    sampling: str  # cached or remote
    reason: str


def choose_sampling(config: Config, needed_bytes: int, limit_bytes: int, where: str) -> Choice:
    """Decides replay.sampling.

    Args:
        needed_bytes: what a memory of replay.capacity takes when it is full.
        limit_bytes: what the process may use.
        where: what limits it, for the message.

    Raises:
        UsageError: replay.sampling=cached, and it does not fit.
    """
    asked, usable = config.replay.sampling, int(MEMORY_SHARE * limit_bytes)
    numbers = (
        f"a replay memory of {config.replay.capacity:,} transitions takes {needed_bytes:,} bytes when full, and "
        f"{usable:,} may be used ({MEMORY_SHARE:.0%} of {where})"
    )
    if asked == "remote":
        return Choice("remote", "replay.sampling=remote")
    if needed_bytes <= usable:
        return Choice("cached", numbers)
    if asked == "cached":
        raise UsageError(
            f"replay.sampling is cached, but {numbers}: lower replay.capacity, give the learner more memory, or set "
            f"replay.sampling=remote"
        )
    return Choice("remote", numbers)


def usable_memory(device: torch.device) -> tuple[int, str]:
    """(bytes that this process may use on `device`, what limits them)."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return free, f"the {free:,} bytes free of {total:,} on {torch.cuda.get_device_name(device)}"
    limit = memory_limit_bytes()
    return limit, f"the {limit:,} bytes that this process may use"
