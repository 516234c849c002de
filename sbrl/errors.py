"""The two kinds of failure that a user sees, each with its exit code.

Every message names the value, the broken rule and the remedy. Programs print these errors as one line on standard error (see
`sbrl.runtime.program.run_program`). Any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

START_AGAIN = 75  # exit code of a process that asks for a restart (EX_TEMPFAIL)
SHOWN_CHARACTERS = 200


def shown(value: object) -> str:
    """A value as messages show it. Long values are cut short."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}... ({len(text):,} characters)"


def plain(value: float) -> str:
    """A number as people write it: whole numbers with all digits, others with as many as they need."""
    return str(int(value)) if abs(value) < 2**64 and value == int(value) else f"{value:.15g}"


def near(name: str, known: Iterable[str]) -> list[str]:
    """The known names most similar to `name`, ignoring case: several if equally similar, none if none is similar."""
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
    """A failure with a message for the user. `exit_code` is the program's exit code."""

    exit_code = 1


class UsageError(SbrlError):
    """The request itself is wrong: an unknown key, a value out of range, an unknown game."""

    exit_code = 2


class RunError(SbrlError):
    """The request is valid but failed here: no permission, a port is taken, no usable checkpoint."""


class FinalError(RunError):
    """A failure that a restart would only repeat, such as an environment's bad values. It ends the role and the run."""
