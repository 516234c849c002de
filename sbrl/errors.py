"""The two kinds of failure a user sees, each with its exit code.

Every message names the value, the rule it breaks and the remedy. Programs turn these into one line on standard error (see
`sbrl.runtime.program.run_program`); any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

START_AGAIN = 75  # exit code of a process that only wants to be started again (EX_TEMPFAIL)
SHOWN_CHARACTERS = 200


def shown(value: object) -> str:
    """A value as a message shows it, cut short where somebody gave very much of it."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}... ({len(text):,} characters)"


def plain(value: float) -> str:
    """A number as people write it: whole ones with all their digits, others with as many as they need."""
    return str(int(value)) if abs(value) < 2**64 and value == int(value) else f"{value:.15g}"


def near(name: str, known: Iterable[str]) -> list[str]:
    """The known name most like `name`, whatever its case; several where they are equally like it, none where none is."""
    by_lower = {one.lower(): one for one in known}
    matches = difflib.get_close_matches(name.lower(), by_lower, n=len(by_lower) or 1, cutoff=0.6)
    ratios = [difflib.SequenceMatcher(None, match, name.lower()).ratio() for match in matches]
    return [by_lower[match] for match, ratio in zip(matches, ratios, strict=True) if ratio == max(ratios)]


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known name nearest to `name`, or nothing."""
    return did_you_mean(near(name, known))


def did_you_mean(names: Iterable[str]) -> str:
    quoted = " or ".join(map(repr, names))
    return f"; did you mean {quoted}?" if quoted else ""


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
