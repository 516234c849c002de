"""How many steps an actor may take next, so that a run collects exactly run.env_steps. Pure."""

from __future__ import annotations


def step_allowance(remaining: int, num_others: int, reserved_by_others: int) -> int:
    """Steps that an actor may take beyond those it has reported: an equal share, or what the others leave of it.

    Args:
        remaining: Steps of the run that no actor has reported yet; zero or negative if none are left.
        num_others: Number of other live actors.
        reserved_by_others: Steps that these may still take in total under their earlier allowances.

    Returns:
        max(0, min(ceil(remaining / live actors), remaining - reserved_by_others)). So the open allowances never add up to more
        than what remains.
    """
    equal_share = -(-remaining // (1 + num_others))
    return max(0, min(equal_share, remaining - reserved_by_others))


def reserved(step_limit: int, reported: int) -> int:
    """Steps that an actor with this `step_limit` can still take after it has reported `reported`."""
    return max(0, step_limit - reported)
