"""Stands in for what Dopamine, Acme and AdaStop import but what is tested never calls. Runs in .venv-oracles."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Packages that are not installed, and parts of Dopamine and Acme that need them: environments, replays, networks, logging,
# pictures.
ABSENT = (
    "matplotlib",
    "reverb",
    "tensorflow",
    *(f"acme.{name}" for name in ("adders", "core", "environment_loop", "jax.networks", "jax.utils", "utils")),
    *(f"acme.agents.jax.dqn.{name}" for name in ("actor", "agent", "builder", "config", "learning")),
    *(f"dopamine.{name}" for name in ("discrete_domains.atari_lib", "jax.networks", "jax.replay_memory", "metrics")),
)


class StandIn(type):
    """A class any attribute of which is such a class: good as a base class, an annotation or a default, for nothing else."""

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
    """From now on these modules can be imported. Call it after the imports of what is really used."""
    sys.meta_path.insert(0, AbsentFinder())
