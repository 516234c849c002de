"""The two kinds of failure a user sees, each with its exit code.

Every message names the value, the rule it breaks and the remedy. Programs turn these into one line on standard error (see
`sbrl.lifecycle.run_program`); any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

START_AGAIN = 75  # exit code of a process that only wants to be started again (EX_TEMPFAIL)
SHOWN_CHARACTERS = 200


def shown(value: object) -> str:
    """A value as a message shows it, cut short where somebody gave very much of it."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}... ({len(text):,} characters)"


class SbrlError(Exception):
    """A failure with a message meant for the user; `exit_code` is what the program exits with."""

    exit_code = 1


class UsageError(SbrlError):
    """What was asked for cannot be done as asked: an unknown key, a value out of range, an unknown game."""

    exit_code = 2


class RunError(SbrlError):
    """What was asked for is sound but failed here: no permission, a port taken, no usable checkpoint."""


class FinalError(RunError):
    """What starting again would only meet again, as an environment's bad values: a role that ends with it ends the run."""
