"""How many steps an actor may take next, so that a run collects exactly run.env_steps. Pure."""

from __future__ import annotations


def step_allowance(remaining: int, num_others: int, reserved_by_others: int) -> int:
    """Steps an actor may take beyond those it has reported: its equal share of what remains, or what others leave of it.

    Args:
        remaining: Steps of the run that no actor has reported yet; at or below zero, none are left.
        num_others: Other live actors.
        reserved_by_others: Steps that these may still take, all together, by what they were allowed before.

    Returns:
        max(0, min(ceil(remaining / live actors), remaining - reserved_by_others)). With this, allowances that are out never sum
        to more than what remains.
    """
    equal_share = -(-remaining // (1 + num_others))
    return max(0, min(equal_share, remaining - reserved_by_others))


def reserved(step_limit: int, reported: int) -> int:
    """Steps that an actor which may reach `step_limit` can still take after it has reported `reported`."""
    return max(0, step_limit - reported)
