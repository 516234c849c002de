"""Whether what an environment returns is what Gymnasium's API and its own spaces say: cheap enough for every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from sbrl.envs.user_code import RESET, STEPPED, refusal
from sbrl.errors import shown

# Kinds of dtypes by what they can hold: a space's numbers may be given as any kind up to its own.
_KINDS = {"b": 0, "i": 1, "u": 1, "f": 2}


def read_reset(env_id: str, answer: Any) -> Any:
    """The observation that reset() returned.

    Raises:
        UsageError: it returned something else than (observation, info).
    """
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], Mapping)):
        raise refusal(env_id, RESET, f"it returned {_outline(answer)}, as under old Gym's API")
    return answer[0]


def read_step(env_id: str, answer: Any) -> tuple[Any, Any, Any, Any]:
    """(observation, reward, terminated, truncated) that step() returned, of whatever types.

    Raises:
        UsageError: it returned something else than (observation, reward, terminated, truncated, info).
    """
    if not (isinstance(answer, tuple | list) and len(answer) == 5):
        raise refusal(env_id, STEPPED, f"it returned {_outline(answer)}, as under old Gym's API")
    observation, reward, terminated, truncated, _ = answer
    return observation, reward, terminated, truncated


def fault(space: spaces.Space[Any], value: Any) -> str:
    """What is wrong with an observation of `space`, or nothing. Whether numbers are finite, and in a box, is not looked at."""
    if isinstance(space, spaces.Box):
        return _array_fault(space, value)
    if isinstance(space, spaces.Tuple):
        if not isinstance(value, tuple | list) or len(value) != len(space.spaces):
            return f"is {_outline(value)}, but its space has {len(space.spaces)} parts"
        return next((found for one, part in zip(space.spaces, value, strict=True) if (found := fault(one, part))), "")
    if isinstance(space, spaces.Dict):
        if not isinstance(value, Mapping) or value.keys() != space.spaces.keys():
            names = list(value) if isinstance(value, Mapping) else _outline(value)
            return f"is {shown(names)}, but its space has the parts {shown(list(space.spaces))}"
        return next(
            (f"has a part {name!r} that {found}" for name, one in space.items() if (found := fault(one, value[name]))), ""
        )
    if isinstance(space, spaces.MultiBinary | spaces.MultiDiscrete):
        if found := _array_fault(space, value):
            return found
        value = np.asarray(value, space.dtype)
    return "" if space.contains(value) else f"is {shown(value)}, which is not in its space {space}"


def _array_fault(space: spaces.Space[Any], value: Any) -> str:
    try:
        array = np.asarray(value)
    except ValueError:  # lists of several lengths
        return f"is {shown(value)}, which is no array"
    assert space.dtype is not None
    if _KINDS.get(array.dtype.kind, len(_KINDS)) > _KINDS[space.dtype.kind]:
        return f"is of dtype {array.dtype}, but its space {space} of {space.dtype}"
    if array.shape != space.shape:
        return f"has shape {array.shape}, but its space {space} has {space.shape}"
    return ""


def _outline(value: Any) -> str:
    """What kind of thing it is."""
    return f"{len(value)} values" if isinstance(value, tuple) else f"one {type(value).__name__}"
