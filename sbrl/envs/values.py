"""Checks the values that an environment returns, so that only values an agent can learn from pass. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from sbrl.errors import shown

LARGEST = float(np.finfo(np.float32).max)  # rewards and observations are stored as 32-bit floats


class BadValueError(Exception):
    """An environment returned a value that an agent cannot learn from. The message names the value and the broken rule."""


def to_reward(value: Any) -> float:
    """A reward as a float. An array or tensor with one number counts as a number.

    Raises:
        BadValueError: it is not a finite number, or too large for a 32-bit float.
    """
    number = value if type(value) is float else _number(value)
    if not abs(number) <= LARGEST:
        raise BadValueError(f"reward={shown(value)}, and a reward must be a finite number of at most {LARGEST:.3g}")
    return number


def to_flag(name: str, value: Any) -> bool:
    """Whether an episode is `name` (terminated or truncated).

    Raises:
        BadValueError: it is none of true, false, 0 and 1.
    """
    if type(value) is bool:
        return value
    number = _number(value)
    if number not in (0.0, 1.0):
        raise BadValueError(f"{name}={shown(value)}, and it must be true or false")
    return number == 1.0


def check_observation(space: Space[Any], value: Any, name: str = "observation") -> None:
    """Checks shape and numbers against the environment's own space. Exceeding its bounds is allowed: it is common.

    Raises:
        BadValueError: wrong shape or kind; a number that is not finite, too large for 32-bit floats or not of the space's type.
    """
    match space:
        case spaces.Box():
            _check_box(space, value, name)
        case spaces.Dict():
            for key, part in space.spaces.items():
                if not isinstance(value, Mapping) or key not in value:
                    raise BadValueError(f"{name}={shown(value)}, and it must be a mapping with {key!r}")
                check_observation(part, value[key], f"{name}[{key!r}]")
        case spaces.Tuple():
            if not isinstance(value, tuple | list) or len(value) != len(space.spaces):
                raise BadValueError(f"{name}={shown(value)}, and it must be a tuple of {len(space.spaces)}")
            for index, part in enumerate(space.spaces):
                check_observation(part, value[index], f"{name}[{index}]")
        case _:
            if not space.contains(value):
                raise BadValueError(f"{name}={shown(value)}, and it must be of its space {space}")


def _check_box(space: spaces.Box, value: Any, name: str) -> None:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):  # lists of different lengths; a tensor on a GPU or with a gradient
        raise BadValueError(f"{name}={shown(value)}, and it must be an array of numbers") from None
    if array.shape != space.shape:
        raise BadValueError(f"{name} of shape {array.shape}, and its space has the shape {space.shape}")
    if array.dtype.kind not in "biuf":
        raise BadValueError(f"{name}={shown(value)}, and it must be an array of numbers")
    if array.dtype.kind == "f":
        _require(np.abs(array) <= LARGEST, array, name, f"observations must be finite and at most {LARGEST:.3g}")
    if space.dtype is not None and space.dtype.kind in "biu" and array.dtype != space.dtype:
        fits = array.astype(space.dtype) == array
        _require(fits, array, name, f"its space is of {space.dtype}, which cannot hold that")


def _require(good: Any, array: NDArray[Any], name: str, rule: str) -> None:
    """Raises BadValueError for the first number that is not good."""
    if good.all():
        return
    index = tuple(int(place) for place in np.argwhere(~good)[0])
    place = f"[{', '.join(map(str, index))}]" if index else ""
    raise BadValueError(f"{name}{place}={array[index].item()!r}, and {rule}")


def _number(value: Any) -> float:
    """`value` as a float; NaN if it is not a number."""
    try:
        array = np.asarray(value)
        return float(array.item()) if array.size == 1 and array.dtype.kind in "biufO" else np.nan
    except (ValueError, TypeError, OverflowError, RuntimeError):
        return np.nan
