"""Checks whether a run can be logged to Weights & Biases. Does not load the package, so that launchers can ask."""

from __future__ import annotations

from importlib.util import find_spec

from sbrl.config import Run
from sbrl.errors import UsageError


def check_wandb(run: Run) -> None:
    """
    Raises:
        UsageError: run.wandb_mode needs the package wandb, which is not installed.
    """
    if run.wandb_mode != "disabled" and find_spec("wandb") is None:
        raise UsageError(
            f"run.wandb_mode={run.wandb_mode} needs the package wandb: pip install -c constraints.txt wandb, "
            f"or set run.wandb_mode=disabled"
        )
