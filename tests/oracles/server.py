"""The oracle process: answers requests from the tests until its input ends. Runs in .venv-oracles, as a module.

JAX compiles each operation for every new shape, so tests use few shapes. All values are float64.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping
from types import ModuleType

import jax

from tests.oracles import wire


def main() -> None:
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library's own output must not get between the answers
    jax.config.update("jax_enable_x64", True)
    references = import_references()
    while (arguments := wire.receive(requests)) is not None:
        module, function = str(arguments.pop("function")).split(".")
        try:
            answer = getattr(references[module], function)(**arguments)
        except Exception:
            answer = {"error": traceback.format_exc()}
        wire.send(answers, answer)
    os._exit(0)  # JAX takes seconds for a normal shutdown


def import_references() -> Mapping[str, ModuleType]:
    """Imports rlax first, which needs its real imports. Some imports of the others are stand-ins."""
    from tests.oracles import absent, reference_rlax

    absent.install()
    from tests.oracles import reference_acme, reference_dopamine, reference_network, reference_statistics

    return {
        "rlax": reference_rlax,
        "acme": reference_acme,
        "dopamine": reference_dopamine,
        "network": reference_network,
        "statistics": reference_statistics,
    }


if __name__ == "__main__":
    main()
