"""Calls of what an environment's authors wrote, which may raise anything: the user gets one line, with reason and remedy."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sbrl.errors import SbrlError, UsageError
from sbrl.logs import one_line

T = TypeVar("T")

# What went wrong and the remedy, for each thing that is asked of an environment.
MADE, RESET, STEPPED, CLOSED = "made", "reset", "stepped", "closed"
REMEDIES = {
    MADE: "install what it needs, mend its module, or give its constructor what it wants with env.kwargs",
    RESET: "Gymnasium's reset(*, seed, options) returns (observation, info)",
    STEPPED: "Gymnasium's step(action) returns (observation, reward, terminated, truncated, info)",
    CLOSED: "mend its close()",
}
_NOT_THEIRS = (f"{Path(__file__).parents[1]}/", "/site-packages/gymnasium/", "/importlib/", "<frozen ")


def call(env_id: str, what: str, function: Callable[..., T], /, *arguments: object, **named: object) -> T:
    """function(*arguments, **named), which is code of the environment `env_id`; `what` is a key of `REMEDIES`.

    Raises:
        UsageError: it raised something, be it SystemExit. Ours and Ctrl-C pass.
    """
    try:
        return function(*arguments, **named)
    except (KeyboardInterrupt, SbrlError):
        raise
    except BaseException as error:
        raise refusal(env_id, what, describe(error)) from error


def refusal(env_id: str, what: str, reason: str) -> UsageError:
    """What is said of an environment that cannot be made, reset, stepped or closed."""
    return UsageError(f"env.id={env_id} cannot be {what}: {reason}; {REMEDIES[what]}")


def describe(error: BaseException) -> str:
    """An exception in one line, with the place in the environment's own code that it comes from, where there is one."""
    text = one_line(str(error))
    text = text if len(text) <= 300 else f"{text[:300]}..."
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not any(part in frame.filename for part in _NOT_THEIRS)]
    place = f" ({theirs[-1].filename}:{theirs[-1].lineno})" if theirs else ""
    return f"{type(error).__name__}{f': {text}' if text else ''}{place}"
