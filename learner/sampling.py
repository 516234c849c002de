"""How much memory a replay on the learner's device may use."""

from __future__ import annotations

import torch

from sbrl.runtime.memory import process_memory


def usable_memory(device: torch.device) -> tuple[int, str]:
    """(bytes that this process may use on `device`, what limits them)."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return free, f"the {free:,} bytes free of {total:,} on {torch.cuda.get_device_name(device)}"
    return process_memory()
