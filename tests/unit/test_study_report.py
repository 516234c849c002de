"""`sbrl report`: its text for each kind of evidence; its files are complete, self-contained and reproducible."""

from __future__ import annotations

import csv
import html
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from sbrl.errors import UsageError
from studies.costs import break_even, load_prices
from studies.evidence import gather
from studies.outcomes import Beside
from studies.questions import Question
from studies.records import RunRecord, write_record
from studies.report import figures, pictures, words
from studies.report.__main__ import main
from studies.report.content import make_report
from studies.report.page import Report, number
from studies.report.write import write_report
from tests.study_records import HORIZONS, make_question, make_record, make_records

pytestmark = pytest.mark.timeout(600)  # six figures take seconds on an idle machine, minutes on a busy one

BETTER = {"batch 32": 1.0, "batch 8": 2.0}
VOID = {"meta", "link", "br", "path", "use"}


def report_of(question: Question, records: Sequence[RunRecord]) -> Report:
    return make_report(gather(question, records), load_prices(None), "sbrl report results")


def head(report: Report) -> str:
    return " ".join(part for verdict in report.verdicts for part in (verdict.title, *verdict.sentences))


@pytest.mark.parametrize(
    ("means", "title"),
    [
        (BETTER, "Adopt batch 8"),
        ({"batch 32": 1.0, "batch 8": 0.3}, "Keep batch 32"),
        ({"batch 32": 1.0, "batch 8": 1.03}, "Not shown: keep batch 32 for now"),
    ],
)
def test_the_verdict_comes_first_in_three_sentences(means: dict[str, float], title: str):
    (verdict,) = report_of(make_question(), make_records(means)).verdicts
    assert verdict.title == title
    assert len(verdict.sentences) == 3
    assert "over 5 seeds: at 10,000 env steps its IQM is" in verdict.sentences[1]


def test_the_foremost_of_several_candidates_is_spoken_of():
    arms = ("batch 32", "batch 16", "batch 8")
    report = report_of(make_question(arms), make_records({"batch 32": 1.0, "batch 16": 1.5, "batch 8": 2.0}))
    assert "Adopt batch 8 in place of batch 32" in head(report)


def test_a_candidate_that_is_excluded_is_not_said_to_be_open():
    arms = ("batch 32", "batch 16", "batch 8")
    report = report_of(make_question(arms), make_records({"batch 32": 1.0, "batch 16": 0.3, "batch 8": 1.06}))
    assert (
        "It is not shown that batch 8 should take the place of batch 32. The tests neither show a gain nor exclude one of 5 %. "
        "A gain of that size by batch 16 is excluded." in head(report)
    )


@pytest.mark.parametrize(
    ("question", "records", "words"),
    [
        (replace(make_question(), tuned=False), make_records(BETTER), "learning rate was not tuned"),
        (make_question(), make_records(BETTER)[1:], "The first look is at 5 seeds, and 0 have whole runs"),
        (
            make_question(),
            [replace(make_records(BETTER)[0], status="failed", reason="NaN"), *make_records(BETTER)[1:]],
            "1 of 10 runs failed",
        ),
        (make_question(seeds=[0]), make_records(BETTER, [0]), "There is one seed only"),
        (make_question(seeds=[0, 1]), make_records(BETTER, [0, 1]), "There are 2 seeds"),
        (
            make_question(),
            [*make_records(BETTER), make_record(seed=2, purpose="tune")],
            "Seeds 2 served for tuning and testing",
        ),
        (
            replace(make_question(), studied=frozenset()),
            make_records(BETTER),
            "differ in more than is studied: learner.batch_size",
        ),
        (
            make_question(),
            [replace(run, commit=run.arm) for run in make_records(BETTER)],
            "Not every arm has runs of all",
        ),
        (make_question(), [run for run in make_records(BETTER) if run.arm == "batch 8"], "5 of 10 runs are missing"),
    ],
    ids=["untuned", "missing", "failed", "one seed", "two seeds", "tuned on", "more than studied", "commits", "no baseline"],
)
def test_doubtful_evidence_adopts_nothing_and_says_why(question: Question, records: list[RunRecord], words: str):
    report = report_of(question, records)
    assert report.verdicts[0].answer == "not shown"
    (checks,) = [section for section in report.sections if section.title == "Checks"]
    assert words in " ".join(checks.bullets)


def test_an_untuned_baseline_may_still_be_kept():
    report = report_of(replace(make_question(), tuned=False), make_records({"batch 32": 1.0, "batch 8": 0.3}))
    assert report.verdicts[0].title == "Keep batch 32"


def test_runs_that_are_not_compared_are_shown_and_not_judged():
    question = replace(make_question(), comparisons=())
    report = report_of(question, make_records(BETTER))
    assert report.verdicts[0].title == "No comparison is asked for"
    (results,) = [section for section in report.sections if section.title == "Results"]
    assert [row[0] for row in results.tables[0].rows] == ["batch 32", "batch 32", "batch 8", "batch 8"]
    assert results.pictures


def test_diagnostics_are_held_against_scores_over_arms():
    means = {f"arm {batch}": 1.0 / batch for batch in (4, 8, 16, 32)}
    report = report_of(make_question(tuple(means)), make_records(means, spread=0.001))
    (section,) = [section for section in report.sections if section.title == "Diagnostics"]
    own, together = section.tables
    assert own.rows[0] == ("arm 4", "0.004")
    assert together.rows == (
        ("policy_churn", "-1 (-1 to -1)"),
    )  # the smaller the batch, the less churn and the higher the score
    (fewer,) = [one for one in report_of(make_question(), make_records(BETTER)).sections if one.title == "Diagnostics"]
    assert len(fewer.tables) == 1


def test_the_cost_has_break_even_and_prices():
    report = report_of(make_question(), make_records(BETTER))
    (cost,) = [section for section in report.sections if section.title == "Cost"]
    rows = {row[0]: row for row in cost.tables[0].rows}
    assert rows["batch 8"][1:4] == ("108", "23.1", "98")
    assert "Break-even: the smoothed curve of batch 8 reaches the end of that of batch 32 after" in cost.bullets[0]
    assert "different lengths" not in cost.paragraphs[0]
    assert "Prices are assumptions" in cost.paragraphs[0]
    assert "its smoothed curve reaches the end of the baseline's after" in head(report)
    (methods,) = [section for section in report.sections if section.title == "Methods"]
    assert "made monotone by isotonic regression. It is not the score" in " ".join(methods.paragraphs)


def test_a_score_below_the_baselines_has_no_break_even():
    """The smoothed curve reached the end of the baseline's, which contradicted the score in the same sentence."""
    records = [
        replace(run, scores=dict.fromkeys(run.scores, 1.0 + run.seed / 100)) if run.arm == "batch 8" else run
        for run in make_records({"batch 32": 1.5, "batch 8": 2.0})
    ]
    report = report_of(make_question(), records)
    (cost,) = [section for section in report.sections if section.title == "Cost"]
    assert cost.bullets == ("No break-even: at the last horizon, the score of batch 8 is below that of batch 32.",)
    assert "smoothed curve" not in head(report)


@pytest.mark.parametrize("compared", [True, False])
def test_a_study_in_which_no_training_episode_ended_has_no_curves(compared: bool):
    question = make_question() if compared else replace(make_question(), comparisons=())
    report = report_of(question, [replace(run, returns=(), score="evaluation") for run in make_records(BETTER)])
    (results,) = [section for section in report.sections if section.title == "Results"]
    assert "No learning curve is drawn, because 10 of 10 runs have none: no training episode ended" in results.paragraphs[-1]
    (cost,) = [section for section in report.sections if section.title == "Cost"]
    assert cost.bullets == (("No break-even: there are no learning curves.",) if compared else ())
    assert cost.pictures == ()


def longer(run: RunRecord) -> RunRecord:
    """The same run with as many steps, and as much time, again."""
    costs, steps = run.costs, 2 * HORIZONS[-1]
    assert costs.wall_seconds
    assert costs.core_seconds
    return replace(
        run,
        settings={**run.settings, "run.env_steps": steps},
        returns=(*run.returns, *((step + HORIZONS[-1], 9.0) for step, _ in run.returns)),
        counts=replace(run.counts, env_steps=steps, updates=2 * run.counts.updates),
        costs=replace(costs, wall_seconds=2 * costs.wall_seconds, core_seconds=2 * costs.core_seconds),
    )


def test_costs_of_longer_runs_are_those_up_to_the_last_horizon():
    """The whole run's time was multiplied by a share of the common steps, and divided a score at the last of these."""
    question = replace(make_question(), studied=frozenset({"learner.batch_size", "run.env_steps"}))
    equal = make_records(BETTER)
    mixed = [longer(run) if run.arm == "batch 8" else run for run in equal]
    one, other = (report_of(question, records) for records in (equal, mixed))
    (cost,), (other_cost,) = ([part for part in report.sections if part.title == "Cost"] for report in (one, other))
    assert other_cost.tables == cost.tables
    assert other_cost.bullets[0] == cost.bullets[0]
    assert (
        "Runs have different lengths, 10,000 to 20,000 env steps: costs and break-even are those of the first 10,000"
        in (other_cost.paragraphs[0])
    )
    assert [picture.description for picture in other_cost.pictures] == [picture.description for picture in cost.pictures]
    assert one.verdicts == other.verdicts


def test_runs_that_all_go_on_after_the_last_horizon():
    report = report_of(make_question(), [longer(run) for run in make_records(BETTER)])
    (cost,) = [section for section in report.sections if section.title == "Cost"]
    assert {row[0]: row for row in cost.tables[0].rows}["batch 8"][1] == "108"
    assert "Runs have 20,000 env steps: costs and break-even are those of the first 10,000" in cost.paragraphs[0]


@pytest.mark.parametrize("left", [slice(10), slice(0), slice(1, None, 2)], ids=["cut", "empty", "gaps"])
def test_a_damaged_curve_gives_no_break_even(left: slice):
    first, *others = make_records(BETTER)
    report = report_of(make_question(), [replace(first, returns=first.returns[left]), *others])
    (cost,) = [section for section in report.sections if section.title == "Cost"]
    assert cost.bullets == (
        "No break-even: learning curves are damaged, for they lack points: batch 32 on MinAtar/Breakout-v1, seed 0.",
    )
    assert "smoothed curve" not in head(report)


def test_curves_that_share_few_steps_give_no_break_even():
    question = replace(make_question(), studied=frozenset({"learner.batch_size", "run.env_steps"}))
    records = [
        replace(
            run,
            settings={**run.settings, "run.env_steps": 12_000},
            returns=tuple((12_000 * part // 20, value) for part, (_, value) in enumerate(run.returns, 1)),
        )
        if run.arm == "batch 8"
        else run
        for run in make_records(BETTER)
    ]
    (cost,) = [section for section in report_of(question, records).sections if section.title == "Cost"]
    assert cost.bullets == ("No break-even: the learning curves of all runs share too few env steps up to 10,000.",)


def test_break_even_is_the_share_of_steps_to_the_baselines_end():
    steps = np.array([10.0, 20, 30, 40])
    assert break_even(steps, np.array([0.0, 4, 8, 8]), np.array([0.0, 1, 3, 4])) == 0.5
    assert break_even(steps, np.array([0.0, 1, 1, 1]), np.array([0.0, 1, 3, 4])) is None
    assert break_even(np.zeros(0), np.zeros(0), np.zeros(0)) is None


@pytest.mark.parametrize("text", ["resource,unit,price\ncore,h,-1\n", "resource,unit,price\ncore,h,1\n", "a,b\n1,2\n", ""])
def test_bad_prices_are_refused(tmp_path: Path, text: str):
    file = tmp_path / "prices.csv"
    file.write_text(text)
    with pytest.raises(UsageError, match=r"prices .*prices.csv"):
        load_prices(file)
    with pytest.raises(UsageError, match="cannot read prices"):
        load_prices(tmp_path / "none.csv")


class Page(HTMLParser):
    """Collects what a page refers to, its ids, and whether its tags are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("src", "href", "xlink:href", "action", "data"):
                self.references.append(str(value))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def test_the_page_needs_nothing_else(tmp_path: Path):
    arms = ("batch 32", "batch 8")
    environments = ("ALE/Pong-v5", "ALE/Breakout-v5")
    report = report_of(make_question(arms, environments=environments), make_records(BETTER, environments=environments))
    text = write_report(report, tmp_path).read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert {"script", "img", "iframe"}.isdisjoint(page.tags)
    assert all(reference.startswith("#") or reference == "data:," for reference in page.references)
    assert set(re.findall(r"url\(([^)]*)\)", text)) <= {f"#{one}" for one in page.ids}
    assert {reference[1:] for reference in page.references if reference.startswith("#")} <= set(page.ids)
    assert "@import" not in text
    assert page.tags.count("svg") == 6  # together, each game, profile, differences, against time
    assert text.count('role="img"') == 6


@pytest.mark.parametrize(("count", "drawn"), [(8, True), (36, False)])
def test_a_map_of_more_arms_than_a_picture_can_hold_has_no_curves(count: int, drawn: bool):
    """The names of 36 arms left the axes no height."""
    arms = {f"arm {number}": float(number) for number in range(1, count + 1)}
    question = replace(make_question(arms=list(arms)), comparisons=())
    assert bool(pictures.of_arms(gather(question, make_records(arms)))) is drawn


def test_every_arm_of_a_picture_has_its_own_line():
    steps = np.array([1.0, 2.0])
    arms = {f"arm {number}": (steps, steps) for number in range(pictures.MOST_ARMS)}
    drawn = figures.draw("x", "x", "x", lambda axes: figures.curves(axes, arms, "x", "y"))
    *colours, _ = (colour.lower() for colour in figures.COLOURS)  # axes are black, too
    styles = {style for style in re.findall(r'style="(fill: none; [^"]*)"', drawn.svg) if any(one in style for one in colours)}
    assert len(styles) == sum(number % len(figures.COLOURS) < len(colours) for number in range(len(arms)))


def test_names_of_arms_cannot_break_the_page(tmp_path: Path):
    arms = {"a <b> & | 32": 1.0, "x '\" 8": 2.0}
    folder = tmp_path / "out"
    text = write_report(report_of(make_question(tuple(arms)), make_records(arms)), folder).read_text()
    assert "<b>" not in text
    assert html.escape("a <b> & | 32") in text
    rows = [line for line in (folder / "report.md").read_text().splitlines() if line.startswith("| ")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in rows if "8: adopt" in line or "candidate" in line}) == 1


def test_the_same_results_give_the_same_bytes_and_every_kind_of_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    results = tmp_path / "results"
    for record in make_records(BETTER):
        write_record(results, record)
    written = []
    folder = results / "report"
    for _ in range(2):
        assert main([str(results)]) == 0
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
        shutil.rmtree(folder)
    assert written[0] == written[1]
    assert {"report.html", "report.md", "runs.csv", "results.csv", "curves.csv", "costs.csv"} < set(written[0])
    pictures = re.findall(r"\]\(([^)]*\.png)\)", written[0]["report.md"].decode())
    assert set(pictures) == {name for name in written[0] if name.endswith(".png")}
    rows = list(csv.DictReader(written[0]["results.csv"].decode().splitlines()))
    assert [(row["candidate"], row["env_steps"]) for row in rows] == [("batch 8", "5000"), ("batch 8", "10000")]
    assert float(rows[0]["difference_low"]) < float(rows[0]["difference"]) < float(rows[0]["difference_high"])
    assert "learning rate was not tuned" in capsys.readouterr().out


def test_the_command_refuses_what_is_no_evidence(tmp_path: Path):
    with pytest.raises(UsageError, match="holds no runs"):
        main([str(tmp_path)])
    with pytest.raises(UsageError, match="is no folder"):
        main([str(tmp_path / "nothing")])


def test_a_studied_word_that_is_no_key_is_refused(tmp_path: Path):
    for record in make_records(BETTER):
        write_record(tmp_path, record)
    words = "--studied 'learner.batchsize' is no config key of the runs; did you mean 'learner.batch_size'?"
    with pytest.raises(UsageError, match=re.escape(words)):
        main([str(tmp_path), "--studied", "agent.n_step", "--studied", "learner.batchsize"])
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(("baseline", "share"), [(0.1, " (+100 %)"), (0.0002, ""), (0.0, ""), (-0.1, "")])
def test_a_gain_is_given_as_a_share_only_of_a_baseline_that_is_not_near_zero(baseline: float, share: str) -> None:
    assert words._gain(Beside(1000, 0.2, baseline, None, None, None, None)) == f"0.2 against {number(baseline)}{share}"
