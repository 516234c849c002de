"""Stand-ins for modules that Dopamine, Acme and AdaStop import, but tests never call. Runs in .venv-oracles."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Packages that are not installed, and parts of Dopamine and Acme that need them: environments, replays, networks, logging and
# plots.
ABSENT = (
    "matplotlib",
    "reverb",
    "tensorflow",
    *(f"acme.{name}" for name in ("adders", "core", "environment_loop", "jax.networks", "jax.utils", "utils")),
    *(f"acme.agents.jax.dqn.{name}" for name in ("actor", "agent", "builder", "config", "learning")),
    *(f"dopamine.{name}" for name in ("discrete_domains.atari_lib", "jax.networks", "jax.replay_memory", "metrics")),
)


class StandIn(type):
    """A class whose every attribute is such a class. Usable only as a base class, an annotation or a default."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return StandIn(name, (), {})


class AbsentModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return getattr(StandIn(self.__name__, (), {}), name)


class AbsentFinder(MetaPathFinder, Loader):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if any(fullname == name or fullname.startswith(f"{name}.") for name in ABSENT):
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return AbsentModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def install() -> None:
    """Makes these modules importable. Call it after importing the modules that are really used."""
    sys.meta_path.insert(0, AbsentFinder())
