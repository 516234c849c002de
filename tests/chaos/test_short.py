"""A short run under faults: each role is killed, shards hang, are cut off and slow, all is killed and resumed; nothing is lost.

`make chaos` does the same for half an hour and more.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from tests.chaos.judge import fault_table, judge, verdict_table
from tests.chaos.markers import LONGEST, SHORTEST
from tests.chaos.session import Session

MEAN_LENGTH = (SHORTEST + LONGEST) / 2  # of episodes: the return of an agent that makes no mistake; half of it, of a random one
HOLD_SECONDS = 3.0
RETURNS = 100

pytestmark = pytest.mark.timeout(900)


def test_a_run_under_faults_loses_nothing_but_time(tmp_path: Path) -> None:
    session = Session(tmp_path, 1, 2, 1, "replay.checkpoint_interval_seconds=5", "run.checkpoint_interval_seconds=5")
    try:
        injector = session.start()
        for role in ("replay-1", "learner", "actor-0", "coordinator", "evaluator"):
            injector.kill(role)
        injector.stop("replay-0", HOLD_SECONDS)
        injector.cut("replay-1", HOLD_SECONDS)
        injector.slow("replay-0", HOLD_SECONDS, measured_seconds=1.0)
        session.stop_and_resume(injector)
        injector.pause(HOLD_SECONDS)
        session.kill_and_resume(injector)
        summary = session.finish()
    finally:
        session.close()
    returns = session.returns(RETURNS)
    verdicts = judge(session, injector.outcomes, summary, returns, [0.9 * MEAN_LENGTH] * RETURNS)
    assert all(verdict.is_good for verdict in verdicts), f"{fault_table(injector.outcomes)}\n\n{verdict_table(verdicts)}"
    assert statistics.fmean(returns) > 0.8 * MEAN_LENGTH
