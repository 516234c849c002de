"""Makes environments by their Gymnasium id."""

from __future__ import annotations

import importlib
import re
import sys
import types
import warnings
from collections.abc import Iterable
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec as Registration

from sbrl.config import Env
from sbrl.config.sections import ATARI_PREFIX
from sbrl.envs.atari import AtariEnvs
from sbrl.envs.gymnasium_envs import GymnasiumEnvs
from sbrl.envs.spec import EnvSpec, VectorEnv
from sbrl.envs.user_code import MADE, call
from sbrl.errors import UsageError, did_you_mean, near

MINATAR_PREFIX = "MinAtar/"


def make_envs(env: Env, num_envs: int, seed: int, num_threads: int = 1) -> VectorEnv:
    """`num_envs` environments, seeded with `seed`, `seed` + 1, ...

    Args:
        num_threads: native threads that step ALE games. Other environments are stepped one after the other.

    Raises:
        UsageError: unknown id, actions that are not discrete, or observations that are not supported.
    """
    registration = look_up(env.id)
    if env.is_atari:
        return AtariEnvs(env, registration.kwargs["game"], num_envs, seed, num_threads)
    return GymnasiumEnvs(env, num_envs, seed)


def make_spec(env: Env) -> EnvSpec:
    """The spec of the environment that `env` describes. Raises as `make_envs` does."""
    envs = make_envs(env, num_envs=1, seed=0)
    try:
        return envs.spec
    finally:
        envs.close()


def look_up(env_id: str) -> Registration:
    """Gymnasium's registration of an id. The id may name the module that registers it: module:Name-v0.

    Raises:
        UsageError: the id is unknown (the message names the nearest ones), or its module cannot be imported.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        call(env_id, MADE, _import_module, module, name)
    env_id = name
    if env_id.startswith(MINATAR_PREFIX):
        _register_minatar()
    registry = gymnasium.envs.registry
    # ALE's games are also registered under older ids with other protocols. One form is enough: the settings are in our config.
    known = [name for name, spec in registry.items() if not _is_ale(spec) or re.fullmatch(r"ALE/\w+-v5", name)]
    if env_id in known:
        if env_id.startswith(ATARI_PREFIX) and not _is_ale(registry[env_id]):
            raise UsageError(
                f"env.id={env_id} is no ALE game: register it under a name without {ATARI_PREFIX} at its beginning"
            )
        return registry[env_id]
    hint = _nearest_id(env_id, known) or "; ALE games are written ALE/Pong-v5, others by their Gymnasium id"
    raise UsageError(f"env.id={env_id!r} is no known environment{hint}")


def _import_module(module: str, env_id: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"env.id={module}:{env_id} cannot be made: {error}; the module that registers {env_id} must be installed, or on "
            f"PYTHONPATH"
        ) from None


def _nearest_id(env_id: str, known: Iterable[str]) -> str:
    """A hint with the newest versions of the nearest ids, by bare name.

    People write Pong, pong, PongNoFrameskip-v4 or old versions. If several ids share the bare name, the requested namespace
    comes first, then ALE, then ids without a namespace.
    """
    namespace = env_id.rpartition("/")[0]

    def order(name: str) -> tuple[bool, bool, bool, int]:
        version = name.rpartition("-v")[2]
        is_asked_for = bool(namespace) and name.startswith(f"{namespace}/")
        return not is_asked_for, not name.startswith(ATARI_PREFIX), "/" in name, -int(version) if version.isdecimal() else 0

    by_bare_name: dict[str, str] = {}
    for name in sorted(known, key=order):
        by_bare_name.setdefault(_bare_name(name), name)
    return did_you_mean(by_bare_name[name] for name in near(_bare_name(env_id), by_bare_name))


def _is_ale(registration: Registration) -> bool:
    return str(registration.entry_point).startswith("ale_py")


def _bare_name(env_id: str) -> str:
    """ALE/Pong-v5, PongNoFrameskip-v4 and Pong -> pong."""
    return env_id.rpartition("/")[2].partition("-")[0].removesuffix("NoFrameskip").lower()


class _AtFirstUse(types.ModuleType):
    """Stands for a module that another one imports, and loads it when its first attribute is asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


def _register_minatar() -> None:
    if any(name.startswith(MINATAR_PREFIX) for name in gymnasium.envs.registry):
        return
    # MinAtar draws with these, and they take a second of a core in every process that imports it.
    later = [name for name in ("matplotlib.pyplot", "seaborn") if name not in sys.modules]
    try:
        sys.modules.update({name: _AtFirstUse(name) for name in later})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            minatar_gym = importlib.import_module("minatar.gym")
    except ImportError:
        raise UsageError("MinAtar environments need the package minatar: pip install -c constraints.txt minatar") from None
    finally:
        for name in later:
            del sys.modules[name]  # whoever else imports them gets them
    minatar_gym.register_envs()
