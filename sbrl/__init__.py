"""Small-batch deep reinforcement learning: the library's functions. Each package states what it may import.

import sbrl

config = sbrl.load_config("classic-qr-dqn", "run.env_steps=20000")
summary = sbrl.train(config, "runs/cartpole")
policy = sbrl.load_policy("runs/cartpole")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sbrl.api import evaluate as evaluate
    from sbrl.api import load_config as load_config
    from sbrl.api import load_policy as load_policy
    from sbrl.api import make_update as make_update
    from sbrl.api import train as train

__all__ = ["evaluate", "load_config", "load_policy", "make_update", "train"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: every import from sbrl runs this file, and pods and commands should only load what they use.
    if name not in __all__:
        raise AttributeError(f"module 'sbrl' has no attribute {name!r}: the library's functions are {', '.join(__all__)}")
    from sbrl import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
