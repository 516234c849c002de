"""Bad evidence is refused, or named and counted against the verdict, but never averaged away."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sbrl.errors import UsageError
from studies.evidence import Evidence, gather
from studies.questions import arms_at_edge, asked_otherwise, question_of_records, read_evidence
from studies.records import RunRecord
from studies.scales import scale_of
from studies.tuning import Choice, write_choices
from tests.study_records import ENVIRONMENT, HORIZONS, make_question, make_record, make_records

ARMS = {"batch 32": 1.0, "batch 8": 2.0}


def texts(evidence: Evidence) -> str:
    return "\n".join(finding.text for finding in evidence.findings)


def test_good_runs_leave_nothing_to_say():
    evidence = gather(make_question(), make_records(ARMS))
    assert evidence.findings == ()
    assert evidence.whole_seeds(ARMS) == (0, 1, 2, 3, 4)
    assert evidence.scores("batch 8", [0, 1]).shape == (2, 2, 1)
    steps, returns = evidence.curves("batch 8", [0, 1, 2])
    assert (len(steps), returns.shape) == (20, (3, 1, 20))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda runs: [replace(runs[0], scores={HORIZONS[0]: math.nan, HORIZONS[1]: 1.0}), *runs[1:]], "a score is nan"),
        (lambda runs: [replace(runs[0], returns=((1000, math.inf),)), *runs[1:]], "a training return is inf"),
        (lambda runs: [replace(runs[0], evaluations=((1000, -math.inf),)), *runs[1:]], "an evaluation is -inf"),
        (lambda runs: [*runs, runs[0]], "two runs of batch 32 on .*, seed 0"),
        (
            lambda runs: [replace(runs[0], settings={**runs[0].settings, "agent.n_step": 3}), *runs[1:]],
            "'batch 32' has two settings of agent.n_step",
        ),
        (lambda runs: [replace(runs[0], score="evaluation"), *runs[1:]], "evaluation and training"),
        (
            lambda runs: [replace(run, status="failed", reason="it was killed") for run in runs],
            "no test run is complete .it was killed",
        ),
        (lambda runs: [replace(run, purpose="tune") for run in runs], "no test run is complete"),
    ],
)
def test_what_cannot_be_right_is_refused(spoil: Callable[[list[RunRecord]], list[RunRecord]], words: str):
    with pytest.raises(UsageError, match=words):
        gather(make_question(), spoil(make_records(ARMS)))


def test_runs_without_a_common_horizon_are_refused():
    runs = [replace(run, scores={1000 * run.seed + 1000: 1.0}) for run in make_records(ARMS)]
    with pytest.raises(UsageError, match="no horizon in common"):
        gather(question_of_records(runs), runs)


def test_missing_and_failed_runs_are_named_and_their_seeds_are_no_pairs():
    runs = make_records(ARMS)
    evidence = gather(make_question(), [replace(runs[1], status="failed", reason="loss not finite"), *runs[2:]])
    assert "1 of 10 runs failed: batch 32 on MinAtar/Breakout-v1, seed 1 (loss not finite)" in texts(evidence)
    assert "1 of 10 runs are missing: batch 32 on MinAtar/Breakout-v1, seed 0" in texts(evidence)
    assert evidence.whole_seeds(ARMS) == (2, 3, 4)
    assert evidence.findings[0].arms == {"batch 32"}


def test_a_run_that_is_too_short_counts_as_missing():
    runs = make_records(ARMS)
    evidence = gather(make_question(), [replace(runs[0], scores={HORIZONS[0]: 1.0}), *runs[1:]])
    assert "1 of 10 runs lack a score at a horizon" in texts(evidence)
    assert 0 not in evidence.whole_seeds(ARMS)


def test_unequal_curves_are_cut_to_what_all_have():
    runs = make_records(ARMS)
    evidence = gather(make_question(), [replace(runs[0], returns=runs[0].returns[:10]), *runs[1:]])
    assert "unequal lengths" in texts(evidence)
    assert evidence.curves("batch 8", [0])[0].tolist() == [step for step, _ in runs[0].returns[:10]]


def test_a_smooth_curve_has_means_over_a_tenth_of_a_run():
    """In a run of 150 episodes a point is the return of one or two, and the last one said who won."""
    runs = make_records({"batch 32": 1.0})
    squares = tuple((step, float(place**2)) for place, (step, _) in enumerate(runs[0].returns))
    steep = [replace(run, returns=squares) for run in runs]
    evidence = gather(make_question(arms=["batch 32"]), steep)
    (steps, values), (smooth_steps, smooth) = (take("batch 32", [0, 1]) for take in (evidence.curves, evidence.smooth_curves))
    assert steps.tolist() == smooth_steps.tolist()
    assert smooth.shape == values.shape == (2, 1, 20)
    assert smooth[0, 0, :3].tolist() == pytest.approx([0, 1 / 2, 5 / 3])
    assert smooth[1, 0, 19] == pytest.approx(values[1, 0, 10:].mean())


@pytest.mark.parametrize(("seeds", "words"), [([3], "one seed only"), ([0, 1, 2], "3 seeds; a verdict needs 5")])
def test_few_seeds_withhold_the_verdict(seeds: list[int], words: str):
    evidence = gather(make_question(seeds=seeds), make_records(ARMS, seeds))
    assert words in texts(evidence)
    assert any(finding.withholds for finding in evidence.findings)


def test_arms_that_differ_in_more_than_is_studied_are_named():
    runs = [
        replace(run, settings={**run.settings, "agent.n_step": 1}) if run.arm == "batch 8" else run
        for run in make_records(ARMS)
    ]
    (finding,) = gather(make_question(), runs).findings
    assert "differ in more than is studied: agent.n_step (1 and None)" in finding.text
    assert finding.arms == {"batch 8"}
    assert gather(replace(make_question(), studied=frozenset({"learner.batch_size", "agent.n_step"})), runs).findings == ()


@pytest.mark.parametrize("field", ["version", "commit"])
def test_mixed_versions_are_named_and_withhold_where_an_arm_has_its_own(field: str):
    runs = make_records(ARMS)
    other: Any = {field: "other"}
    apart = [replace(run, **other) if run.arm == "batch 8" else run for run in runs]
    (finding,) = gather(make_question(), apart).findings
    assert finding.withholds
    balanced = [replace(run, **other) if run.seed == 0 else run for run in runs]
    (finding,) = gather(make_question(), balanced).findings
    assert "Every arm has runs of all of them" in finding.text
    assert not finding.withholds


def test_machines_and_changed_checkouts_are_named():
    runs = [replace(run, commit="abc-dirty", hardware=f"machine {run.seed}") for run in make_records(ARMS)]
    found = texts(gather(make_question(), runs))
    assert "5 machines" in found
    assert "-dirty" in found


def test_seeds_for_tuning_and_testing_are_named_and_withhold():
    runs = make_records(ARMS)
    evidence = gather(make_question(), [*runs, make_record(seed=3, purpose="tune"), make_record(seed=1000, purpose="tune")])
    (finding,) = evidence.findings
    assert finding.text.startswith("Seeds 3 served for tuning and testing")
    assert finding.withholds


def test_a_value_at_the_edge_of_a_tuning_is_named(tmp_path: Path):
    choices = {arm: Choice(arm, "learner.learning_rate=1", arm == "batch 32", {}, 6, 60) for arm in ARMS}
    write_choices(tmp_path, choices)
    question = replace(make_question(), at_edge=arms_at_edge(tmp_path))
    assert "at the edge of what was tried for batch 32: a better" in texts(gather(question, make_records(ARMS)))
    assert arms_at_edge(tmp_path / "no tuning") == ()
    (tmp_path / "tuning.json").write_text("{")
    with pytest.raises(UsageError, match=r"tuning\.json is damaged"):
        arms_at_edge(tmp_path)


def test_strangers_and_a_missed_ratio_are_named():
    runs = make_records(ARMS)
    off = replace(runs[0], counts=replace(runs[0].counts, samples_per_insert=4.0))
    found = texts(gather(make_question(), [off, *runs[1:], make_record("batch 64"), make_record("batch 8", seed=77)]))
    assert "2 runs do not belong to the study and are left out: batch 64 on MinAtar/Breakout-v1, seed 0; batch 8" in found
    assert "Samples per insert are not what the settings ask for: batch 32" in found
    assert "(4 in place of 8)" in found


def test_scales_are_known_ones_or_those_of_the_runs():
    assert scale_of("ALE/Pong-v5", [1.0])[:2] == (-20.7, 14.6)
    assert scale_of("CartPole-v1", [1.0])[:2] == (22, 475)
    assert scale_of(ENVIRONMENT, [3.0, 1.0, 2.0])[:2] == (0.0, 3.0)
    assert scale_of(ENVIRONMENT, [3.0, -1.0, 2.0])[:2] == (-1.0, 3.0)
    assert scale_of(ENVIRONMENT, [0.0, 0.0])[:2] == (0.0, 1.0)
    assert scale_of(ENVIRONMENT, [2.0, 2.0]).apply(
        gather(make_question(), make_records(ARMS)).scores("batch 8", [0])
    ).shape == (2, 1, 1)


def test_runs_that_nobody_planned_are_held_against_the_largest_batch():
    question = question_of_records(make_records({"batch 8": 1.0, "batch 32": 1.0, "batch 16": 1.0}))
    assert question.comparisons[0].baseline == "batch 32"
    assert question.comparisons[0].candidates == ("batch 8", "batch 16")
    assert (question.tuned, question.planned, question.horizons) == (False, False, HORIZONS)


def test_the_command_line_may_ask_otherwise():
    question = asked_otherwise(make_question(), "batch 8", ["agent.n_step"], [5, 10], 0.2)
    (comparison,) = question.comparisons
    assert (comparison.baseline, comparison.candidates) == ("batch 8", ("batch 32",))
    assert (comparison.looks, comparison.smallest_gain) == ((5, 10), 0.2)
    assert "agent.n_step" in question.studied
    with pytest.raises(UsageError, match="--baseline 'batch 9' is no arm; did you mean 'batch 8'"):
        asked_otherwise(make_question(), "batch 9", [], [], None)
    with pytest.raises(UsageError, match="must rise"):
        asked_otherwise(make_question(), None, [], [10, 5], None)


def test_a_folder_without_runs_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="holds no runs"):
        read_evidence([tmp_path])
