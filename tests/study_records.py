"""Records of studies for tests, made up from numbers without any run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from studies.design import Comparison
from studies.questions import Question
from studies.records import Costs, Counts, Purpose, RunRecord

HORIZONS = (5000, 10_000)
ENVIRONMENT = "MinAtar/Breakout-v1"


def make_record(
    arm: str = "batch 8",
    seed: int = 0,
    score: float = 1.0,
    environment: str = ENVIRONMENT,
    purpose: Purpose = "test",
    **changes: object,
) -> RunRecord:
    """A complete run whose return rises to `score` at its end. The last word of the arm's name is its batch size."""
    batch = int(arm.split()[-1])
    steps = [HORIZONS[-1] * part // 20 for part in range(1, 21)]
    returns = tuple((step, score * min(1.0, 2 * step / HORIZONS[-1])) for step in steps)
    settings: dict[str, object] = {
        "env.id": environment,
        "run.seed": seed,
        "run.env_steps": HORIZONS[-1],
        "agent.algorithm": "qr-dqn",
        "learner.batch_size": batch,
        "learner.updates_per_step": 0.25,
        "learner.learning_rate": 5e-5,
        "env.frame_skip": 4,
    }
    record = RunRecord(
        study="synthetic",
        arm=arm,
        environment=environment,
        seed=seed,
        purpose=purpose,
        settings=settings,
        returns=returns,
        evaluations=(),
        scores=dict.fromkeys(HORIZONS, score),
        config_hash=f"{batch:04d}{seed:04d}",
        version="0.1.0",
        commit="c" * 40,
        hardware="a processor, 2 cores",
        status="complete",
        reason="",
        variant="learner.learning_rate=0.0001" if purpose == "tune" else "",
        score="training",
        counts=Counts(HORIZONS[-1], 2500, 2500 * batch, batch * 0.25),
        costs=Costs(wall_seconds=100.0 + batch, core_seconds=90.0 + batch, gpu_seconds=0.0, bytes_moved=None),
        diagnostics={"policy_churn": batch / 1000},
    )
    return RunRecord(**{**vars(record), **changes})


def make_records(
    means: Mapping[str, float],
    seeds: Sequence[int] = range(5),
    environments: Sequence[str] = (ENVIRONMENT,),
    spread: float = 0.1,
) -> list[RunRecord]:
    """Runs of every arm, environment and seed, with normal scores around the arm's mean. The same every time."""
    generator = np.random.default_rng(0)
    return [
        make_record(arm, seed, float(mean + spread * generator.normal()), environment)
        for arm, mean in means.items()
        for environment in environments
        for seed in seeds
    ]


def make_question(
    arms: Sequence[str] = ("batch 32", "batch 8"), seeds: Sequence[int] = range(5), environments: Sequence[str] = (ENVIRONMENT,)
) -> Question:
    """A planned question. The first arm is the baseline, and its learning rate was tuned."""
    return Question(
        text="Does batch 8 help?",
        arms=tuple(arms),
        environments=tuple(environments),
        seeds=tuple(seeds),
        horizons=HORIZONS,
        comparisons=(Comparison(baseline=arms[0], candidates=tuple(arms[1:])),) if len(arms) > 1 else (),
        studied=frozenset({"learner.batch_size", "learner.learning_rate"}),
        tuned=True,
        planned=True,
    )
