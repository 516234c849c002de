"""The value that a tuning chooses, for hand-made scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from studies.arms import arms_of, tuning_runs
from studies.design import Study, parse_study
from studies.records import Costs, Counts, RunRecord, hash_of, settings_of
from studies.tuning import Choice, choose, chosen_variants, untuned_arms, write_choices

HORIZON = 10_000
LOW, OWN, HIGH = (f"learner.learning_rate={value}" for value in ("0.000125", "0.00025", "0.0005"))
ONE, OTHER = "MinAtar/Breakout-v1", "MinAtar/Asterix-v1"
Scores = Mapping[tuple[str, str], float]  # of a variant on an environment


@pytest.fixture
def study() -> Study:
    tree = {
        "name": "small",
        "question": "Which?",
        "preset": "minatar-qr-dqn",
        "environments": [ONE, OTHER],
        "seeds": {"test": 2, "tune": 2},
        "tuning": {"factors": [0.5, 1, 2]},
        "horizons": [HORIZON],
        "arms": [{"name": "batch 32"}],
    }
    return parse_study(tree, "small")


def records(study: Study, scores: Scores) -> list[RunRecord]:
    """Two seeds, one above the score and one below it."""
    return [
        RunRecord(
            study=study.name,
            arm=run.arm,
            environment=run.environment,
            seed=run.seed,
            purpose="tune",
            variant=run.variant,
            settings=settings_of(run.config),
            returns=(),
            evaluations=(),
            scores={HORIZON: scores[run.variant, run.environment] + (1 if run.seed % 2 else -1)},
            config_hash=hash_of(run.config),
            version="",
            commit="",
            hardware="",
            status="complete",
            reason="",
            score="training",
            counts=Counts(env_steps=HORIZON, updates=1, samples_trained=1, samples_per_insert=1.0),
            costs=Costs(wall_seconds=None, core_seconds=None, gpu_seconds=None, bytes_moved=None),
            diagnostics={},
        )
        for run in tuning_runs(study, arms_of(study))
    ]


def choice(study: Study, made: list[RunRecord]) -> Choice:
    return choose(study, arms_of(study)[0], made)


def test_the_best_mean_rank_is_chosen_whatever_the_scales(study: Study) -> None:
    # Ranks on one: high, own, low; on the other: own, high, low. The sums are equal, and own is nearest to itself.
    scores = {
        (LOW, ONE): 1.0,
        (OWN, ONE): 2.0,
        (HIGH, ONE): 3.0,
        (LOW, OTHER): 100.0,
        (OWN, OTHER): 900.0,
        (HIGH, OTHER): 500.0,
    }
    found = choice(study, records(study, scores))
    assert (found.chosen, found.at_edge) == (OWN, False)
    assert found.scores[HIGH] == {ONE: 3.0, OTHER: 500.0}
    assert (found.runs, found.env_steps) == (12, 120_000)
    better = choice(study, records(study, {**scores, (HIGH, OTHER): 901.0}))
    assert (better.chosen, better.at_edge) == (HIGH, True)


def test_a_value_with_a_failed_or_missing_run_is_not_chosen(study: Study, tmp_path: Path) -> None:
    scores = {(name, one): value for name, value in ((LOW, 1.0), (OWN, 2.0), (HIGH, 3.0)) for one in (ONE, OTHER)}
    made = records(study, scores)
    broken = next(record for record in made if record.variant == HIGH)
    failed = [replace(record, status="failed", scores={}) if record is broken else record for record in made]
    for some in (failed, [record for record in made if record is not broken]):
        found = choice(study, some)
        assert found.chosen == OWN
        assert found.scores[HIGH][broken.environment] is None
        arms = arms_of(study)
        assert chosen_variants(study, arms, {"batch 32": found})["batch 32"].value == 0.00025
    nothing = choice(study, [])
    assert (nothing.chosen, nothing.at_edge) == (None, False)
    assert chosen_variants(study, arms_of(study), {"batch 32": nothing}) == {}
    write_choices(tmp_path, {"batch 32": nothing})
    assert '"chosen": null' in (tmp_path / "tuning.json").read_text()


def test_arms_whose_tuning_is_incomplete_or_not_used_are_named(study: Study) -> None:
    scores = {(name, one): value for name, value in ((LOW, 1.0), (OWN, 3.0), (HIGH, 2.0)) for one in (ONE, OTHER)}
    made, arms = records(study, scores), arms_of(study)
    test = replace(made[0], purpose="test", variant="", settings={**made[0].settings, "learner.learning_rate": 0.00025})
    assert untuned_arms(study, arms, [*made, test]) == ()
    other = replace(test, settings={**test.settings, "learner.learning_rate": 0.5})
    for some in ([*made[1:], test], [test], [*made, other]):
        assert untuned_arms(study, arms, some) == ("batch 32",)
    assert untuned_arms(study.model_copy(update={"tuning": None}), arms, []) == ()
