"""The oracle process: answers requests from the tests until its input ends. Runs in .venv-oracles, as a module.

JAX compiles each operation the first time it meets a shape, so tests keep to few shapes; values are float64 throughout.
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
    os.dup2(2, 1)  # whatever a library prints must not come between answers
    jax.config.update("jax_enable_x64", True)
    references = import_references()
    while (arguments := wire.receive(requests)) is not None:
        module, function = str(arguments.pop("function")).split(".")
        try:
            answer = getattr(references[module], function)(**arguments)
        except Exception:
            answer = {"error": traceback.format_exc()}
        wire.send(answers, answer)
    os._exit(0)  # JAX takes seconds to take down what it compiled


def import_references() -> Mapping[str, ModuleType]:
    """rlax first, which needs its imports to be real; for the others some are stood in for."""
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
