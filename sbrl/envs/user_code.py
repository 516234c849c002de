"""Calls an environment's own code, which may raise anything, and makes one line with reason and remedy of it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from sbrl.errors import RunError, SbrlError, UsageError
from sbrl.telemetry.logs import one_line

T = TypeVar("T")

# The calls to an environment, each with the remedy if it fails.
MADE, RESET, STEPPED, CLOSED = "made", "reset", "stepped", "closed"
REMEDIES = {
    MADE: "install what it needs, mend its module, or give its constructor what it wants with env.kwargs",
    RESET: "Gymnasium's reset(*, seed, options) returns (observation, info)",
    STEPPED: "Gymnasium's step(action) returns (observation, reward, terminated, truncated, info)",
    CLOSED: "mend its close()",
}
SHOWN_CHARACTERS = 300  # of an exception's text
_NOT_THEIRS = (f"{Path(__file__).parents[1]}/", "/site-packages/gymnasium/", "/importlib/", "<frozen ")


def call(env_id: str, what: str, function: Callable[..., T], /, *arguments: object, **named: object) -> T:
    """Calls function(*arguments, **named), code of the environment `env_id`. `what` is a key of `REMEDIES`.

    Our own errors and Ctrl-C pass through.

    Raises:
        UsageError: making the environment raised anything, even SystemExit.
        RunError: a later call raised something. Another start may succeed.
    """
    try:
        return function(*arguments, **named)
    except (KeyboardInterrupt, SbrlError):
        raise
    except BaseException as error:
        kind = UsageError if what == MADE else RunError
        raise kind(complaint(env_id, what, describe(error))) from error


def read_reset(env_id: str, answer: Any) -> Any:
    """The observation that reset() returned.

    Raises:
        RunError: it did not return (observation, info).
    """
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], Mapping)):
        raise RunError(complaint(env_id, RESET, f"it returned {_outline(answer)}, as under old Gym's API"))
    return answer[0]


def read_step(env_id: str, answer: Any) -> tuple[Any, Any, Any, Any]:
    """(observation, reward, terminated, truncated) from step().

    Raises:
        RunError: it did not return these and an info.
    """
    if not (isinstance(answer, tuple | list) and len(answer) == 5):
        raise RunError(complaint(env_id, STEPPED, f"it returned {_outline(answer)}, as under old Gym's API"))
    observation, reward, terminated, truncated, _ = answer
    return observation, reward, terminated, truncated


def complaint(env_id: str, what: str, reason: str) -> str:
    """The message about an environment that cannot be made, reset, stepped or closed."""
    return f"env.id={env_id} cannot be {what}: {reason}; {REMEDIES[what]}"


def describe(error: BaseException) -> str:
    """An exception in one line, with its place in the environment's own code if there is one."""
    text = one_line(str(error))
    text = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not any(part in frame.filename for part in _NOT_THEIRS)]
    place = f" ({theirs[-1].filename}:{theirs[-1].lineno})" if theirs else ""
    return f"{type(error).__name__}{f': {text}' if text else ''}{place}"


def _outline(value: Any) -> str:
    """A short description of a value's kind."""
    return f"{len(value)} values" if isinstance(value, tuple) else f"one {type(value).__name__}"
