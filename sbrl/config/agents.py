"""All known agents: SBRL's own, and those that other packages offer under the entry point `sbrl.agents`.

The name of an entry point is a value of agent.algorithm. It refers to an `Algorithm`. The module of that object must not load
torch, because configs are checked without it. The algorithm's presets are available by their names, too. If a name occurs
twice, SBRL's own wins.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from sbrl.config.algorithms import ALGORITHMS, Algorithm
from sbrl.config.presets import PRESETS, Preset
from sbrl.errors import UsageError, nearest

GROUP = "sbrl.agents"


def find_algorithm(name: str) -> Algorithm | None:
    """The algorithm of that name, or None.

    Raises:
        UsageError: a package offers it, but it cannot be loaded.
    """
    return ALGORITHMS.get(name) or of_other_packages(name).get(name)


def all_algorithms() -> dict[str, Algorithm]:
    """By name, SBRL's own first. Raises as `find_algorithm` does."""
    return {**ALGORITHMS, **{name: found for name, found in of_other_packages().items() if name not in ALGORITHMS}}


def all_presets() -> dict[str, Preset]:
    """By name, SBRL's own first. Raises as `find_algorithm` does."""
    offered = {name: preset for found in of_other_packages().values() for name, preset in found.presets.items()}
    return {**PRESETS, **{name: preset for name, preset in offered.items() if name not in PRESETS}}


def find_preset(name: str) -> Preset:
    """
    Raises:
        UsageError: no preset has that name; or as `find_algorithm`.
    """
    if name in PRESETS:
        return PRESETS[name]
    presets = all_presets()
    if name not in presets:
        raise UsageError(f"unknown preset {name!r}{nearest(name, presets)}; `sbrl presets` lists them all")
    return presets[name]


def import_part(reference: str) -> Any:
    """An algorithm's head or loss: the class behind `module:Name`.

    Raises:
        UsageError: it cannot be imported.
    """
    try:
        if ":" not in reference:
            raise ValueError("it has no colon")
        return pkgutil.resolve_name(reference)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"an agent's part {reference!r} cannot be imported as module:Name: {error}") from None


@cache
def of_other_packages(name: str | None = None) -> Mapping[str, Algorithm]:
    """The algorithms of other packages: those of one name, or all."""
    points = entry_points(group=GROUP) if name is None else entry_points(group=GROUP, name=name)
    found: dict[str, EntryPoint] = {}
    for point in points:
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise UsageError(
                f"two packages offer the agent {point.name!r}: {_package(other)} and {_package(point)}; uninstall one"
            )
    return {point.name: _load(point) for point in found.values()}


def _load(point: EntryPoint) -> Algorithm:
    where = f"the agent {point.name!r} of package {_package(point)}"
    try:
        found = point.load()
    except Exception as error:  # other people's code: its import can raise anything
        raise UsageError(f"{where} cannot be loaded: {type(error).__name__}: {error}; mend or uninstall it") from None
    if not isinstance(found, Algorithm):
        raise UsageError(f"{where} is no sbrl.config.algorithms.Algorithm but {type(found).__name__}: mend or uninstall it")
    return found


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value
