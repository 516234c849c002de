"""How many steps an actor may take next, so that a run collects exactly run.env_steps. Pure."""

from __future__ import annotations

from collections.abc import Collection


def step_allowance(remaining: int, reserved_by_others: Collection[int]) -> int:
    """Steps an actor may take beyond those it has reported: its equal share of what remains, or what others leave of it.

    Args:
        remaining: Steps of the run that no actor has reported yet; at or below zero, none are left.
        reserved_by_others: For each other live actor, the steps it may still take by what it was allowed before.

    Returns:
        max(0, min(ceil(remaining / live actors), remaining - sum(reserved_by_others))). With this, allowances that are out
        never sum to more than what remains.
    """
    num_live = 1 + len(reserved_by_others)
    equal_share = -(-remaining // num_live)
    return max(0, min(equal_share, remaining - sum(reserved_by_others)))


def reserved(step_limit: int, reported: int) -> int:
    """Steps that an actor which may reach `step_limit` can still take after it has reported `reported`."""
    return max(0, step_limit - reported)
