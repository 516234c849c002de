"""Results from a grid of arms: sensitivities and power laws, recovered from runs that follow them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from studies.costs import load_prices
from studies.evidence import Evidence, gather
from studies.grids import power_laws, sensitivities
from studies.records import RunRecord
from studies.report.content import make_report
from tests.study_records import make_question, make_record

SEEDS = (0, 1, 2)


def grid(speed: dict[tuple[float, int], float]) -> Evidence:
    """Arms by updates per step and batch size. Returns rise from 0 to 10 at some speed; with 1 they need all steps."""
    records: list[RunRecord] = []
    for (updates, batch), factor in speed.items():
        arm = f"updates {updates:g} batch {batch}"
        for seed in SEEDS:
            one = make_record(arm, seed, score=min(10.0, 10 * factor * (1 + 0.01 * seed)))
            returns = tuple((step, min(10.0, factor * (1 + 0.01 * seed) * step / 1000)) for step, _ in one.returns)
            settings = {**one.settings, "learner.updates_per_step": updates, "learner.target_update_period": updates * 1000}
            records.append(
                replace(one, returns=returns, settings=settings, counts=replace(one.counts, samples_per_insert=None))
            )
    question = make_question(list(dict.fromkeys(record.arm for record in records)), SEEDS)
    return gather(replace(question, comparisons=()), records)


HALVED = {(0.25, 8): 1.2, (0.25, 16): 1.5, (0.25, 32): 2.0, (1.0, 8): 1.6, (1.0, 16): 2.0, (1.0, 32): 1.5}


def test_a_best_batch_that_halves_with_four_times_the_updates():
    (law,), reasons = power_laws(grid(HALVED))
    assert reasons == []
    assert (law.key, law.threshold, law.updates_per_step) == ("learner.batch_size", 10.0, (0.25, 1.0))
    assert law.law.best == pytest.approx((32, 16))
    assert law.law.exponent == pytest.approx((-0.5, -0.5, -0.5))


def test_a_grid_with_a_hole_or_one_seed_has_no_law():
    holed = {cell: speed for cell, speed in HALVED.items() if cell != (1.0, 32)}
    assert power_laws(grid(holed)) == ([], [])
    one_seed = grid(HALVED)
    one_seed = replace(one_seed, question=replace(one_seed.question, seeds=(0,)))
    laws, (reason,) = power_laws(one_seed)
    assert laws == []
    assert "needs two seeds" in reason


def test_sensitivity_is_within_arms_that_differ_in_nothing_else():
    found = sensitivities(grid({(0.25, 8): 0.5, (0.25, 16): 0.8, (1.0, 8): 0.9, (1.0, 16): 0.6}))
    assert [(one.rest, one.found.best) for one in found] == [("updates_per_step=0.25", 16), ("updates_per_step=1.0", 8)]
    below, above = found[0].found.below, found[1].found.above
    assert below is not None
    assert above is not None
    assert below.estimate == pytest.approx(0.3 * 1.01 / 0.918)  # the scale ends at the highest score, 9.18
    assert above.estimate == pytest.approx(0.3 * 1.01 / 0.918)


def test_without_half_or_twice_the_best_value_there_is_no_sensitivity():
    assert sensitivities(grid({(0.25, 8): 0.5, (0.25, 32): 0.8})) == []


@pytest.mark.parametrize("others", [[], [16]], ids=["nothing else", "a batch too"])
def test_arms_that_differ_only_in_a_key_that_follows_have_no_sensitivity(others: list[int]):
    """They share all settings, so neither has a value of the key that the other lacks."""
    records: list[RunRecord] = []
    for period, batch in [(1000, 8), (77, 8), *((1000, batch) for batch in others)]:
        for seed in SEEDS:
            one = make_record(f"period {period} batch {batch}", seed, score=1.0 + seed)
            records.append(replace(one, settings={**one.settings, "learner.target_update_period": period}))
    question = make_question(list(dict.fromkeys(record.arm for record in records)), SEEDS)
    assert sensitivities(gather(question, records)) == []


def test_without_curves_there_is_no_law_and_a_reason():
    evidence = grid(HALVED)
    records = [replace(run, returns=()) for run in evidence.records]
    laws, (reason,) = power_laws(gather(evidence.question, records))
    assert laws == []
    assert "it needs learning curves" in reason


def test_the_report_has_both():
    report = make_report(grid(HALVED), load_prices(None), "sbrl report")
    (section,) = [one for one in report.sections if one.title == "Sensitivity and best values"]
    sensitivity, laws = section.tables
    assert [row[:2] for row in sensitivity.rows] == [
        ("learner.batch_size", "updates_per_step=0.25"),
        ("learner.batch_size", "updates_per_step=1.0"),
    ]
    assert laws.rows[0][2] == "32 at 0.25; 16 at 1"
    assert laws.rows[0][3].startswith("-0.5 (")
