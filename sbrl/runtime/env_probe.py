"""Tries one environment out before a run begins: makes, resets and steps it.

The program `python -m sbrl.runtime.env_probe ENV_AS_JSON SECONDS` does this in a separate process, for `probe`.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Sequence

import numpy as np

from sbrl.config import Env
from sbrl.envs.spec import EnvSpec
from sbrl.envs.user_code import CLOSED, MADE, RESET, STEPPED, complaint
from sbrl.errors import RunError, UsageError
from sbrl.runtime.parent_death import has_launcher
from sbrl.runtime.program import run_program
from sbrl.runtime.trial import TrialFailed, answer_alone, run_trial
from sbrl.telemetry.logs import report_failure

LIMIT_SECONDS = 60.0  # for all stages, including imports and, for example, a first download
GRACE_SECONDS = 10.0  # beyond that, for native code that lets no other thread of its process run


def probe(env: Env, limit_seconds: float = LIMIT_SECONDS) -> EnvSpec:
    """Tries one environment out in another process and returns its spec. This process loads none of its code.

    Raises:
        UsageError: it cannot be made, reset or stepped, crashes, or takes longer than `limit_seconds`.
    """
    module, limit = "sbrl.runtime.env_probe", limit_seconds + GRACE_SECONDS
    try:
        answers = run_trial(module, env.model_dump_json(), str(limit_seconds), limit_seconds=limit)
        reason = "it ends the process that it is in, with exit code 0"
    except TrialFailed as error:
        answers, reason = error.answers, str(error)
    try:
        # The last answer comes after all stages, even if the process did not end well.
        return EnvSpec.of_plain(json.loads(answers[-1]))
    except (ValueError, TypeError, LookupError):
        raise UsageError(complaint(env.id, answers[-1] if answers else MADE, reason)) from None


def try_out(env: Env, limit_seconds: float = LIMIT_SECONDS, begin: Callable[[str], None] = lambda stage: None) -> EnvSpec:
    """Tries one environment out in this process and returns its spec. If it hangs, ends the process with a message.

    Args:
        begin: called with each stage before it begins.

    Raises:
        UsageError: it cannot be made, reset or stepped.
    """
    stage = MADE

    def enter(new: str) -> None:
        nonlocal stage
        stage = new
        begin(new)

    def give_up() -> None:  # no exception would reach a call that does not return
        report_failure(UsageError(complaint(env.id, stage, f"that takes longer than {limit_seconds:g} s")))
        os._exit(UsageError.exit_code)

    timer = threading.Timer(limit_seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        enter(MADE)
        from sbrl.envs.make import make_envs  # loads gymnasium and ALE, which `probe` does not need

        envs = make_envs(env, num_envs=1, seed=0)
        enter(RESET)
        envs.reset()
        enter(STEPPED)
        envs.step(np.zeros(1, np.int64))
        enter(CLOSED)
        envs.close()
        return envs.spec
    except RunError as error:  # a failure that would end a run later must not let it begin
        raise UsageError(str(error)) from error
    finally:
        timer.cancel()


def spec_for_role(env: Env) -> EnvSpec:
    """The spec of a role's environment. Tries it out unless a launcher has done so.

    Under a launcher a role may be restarting during the run. A failure that another try may fix must not end the run.

    Raises:
        UsageError: the environment cannot be made, or does not work.
    """
    if not has_launcher():
        return try_out(env)
    from sbrl.envs.make import make_spec

    return make_spec(env)


def main(argv: Sequence[str]) -> None:
    answer = answer_alone()
    spec = try_out(Env.model_validate_json(argv[0]), float(argv[1]), begin=answer)
    answer(json.dumps(spec.to_plain()))


if __name__ == "__main__":
    run_program(main)
