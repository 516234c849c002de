"""A short run under faults: kills, hanging, cut-off and slow shards, a full kill and a resumption. All sums hold.

Only exact checks are made, which do not depend on the machine's other load. `make chaos` does the same for over half an hour,
also stops and resumes as users do, and checks times, losses and returns.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.judge import fault_table, judge, verdict_table
from tests.chaos.session import Session

HOLD_SECONDS = 3.0
LAST_STEPS = 1000  # beyond those counted when everything was killed

pytestmark = pytest.mark.timeout(900)


def test_a_run_under_faults_loses_nothing_but_time(tmp_path: Path) -> None:
    session = Session(tmp_path, 1, 2, 1, "replay.checkpoint_interval_seconds=5", "run.checkpoint_interval_seconds=5")
    try:
        injector = session.start()
        for roles in (["replay-1"], ["learner"], ["actor-0", "evaluator"], ["coordinator"]):
            injector.kill(*roles)
        injector.stop("replay-0", HOLD_SECONDS)
        injector.cut("replay-1", HOLD_SECONDS)
        injector.slow("replay-0", HOLD_SECONDS, measured_seconds=1.0)
        ending = session.kill_and_finish(injector, LAST_STEPS)
    finally:
        session.close()
    verdicts = judge(session, ending)
    assert all(verdict.is_good for verdict in verdicts), f"{fault_table(injector.outcomes)}\n\n{verdict_table(verdicts)}"
    print(f"{fault_table(injector.outcomes)}\n\n{verdict_table(verdicts)}")
