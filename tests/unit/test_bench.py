"""`sbrl bench`: figures in turns, their JSON and tables, progress messages, and bad input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench import documents
from bench.figures import Beside, Figure, Interval, Record, load, save
from bench.progress import Progress
from bench.whole_run import Course, start_figures

MACHINE = {"date": "2026-01-02", "hardware": "A processor, 2 cores", "gpu": None, "torch": "2", "load_1m": 0.5}


def figures() -> list[Figure]:
    fast = Figure.of_turns(
        "learner", "batch 8", "updates/s", [60, 50, 70], peers={"peer": [30, 25, 35], "other": [60, 100, 70]}
    )
    slow = Figure.of_turns("learner", "batch 32", "updates/s", [1234.5], limit_name="limit", limit=[2469.0])
    return [fast, slow]


def test_a_figure_is_a_median_and_its_ratios_are_of_each_turn():
    fast, slow = figures()
    assert (fast.value.median, fast.value.low, fast.value.high) == (60, 50, 70)
    assert fast.peers["peer"] == Beside(30, Interval(2, 2, 2))  # the machine's noise affected both, and cancels
    assert fast.peers["other"].ratio == Interval(1, 0.5, 1)
    assert slow.limit == Beside(2469, Interval(0.5, 0.5, 0.5))
    assert fast.line() == "learner: batch 8: 60 updates/s (50 to 70); peer 30 (2.00 x); other 70 (1.00 x; 0.50 to 1.00)"


def test_more_than_one_is_better_also_where_less_is_better():
    figure = Figure.of_turns("run", "start", "s", [16.0, 4.0, 8.0], limit_name="aim", limit=[8.0], less_is_better=True)
    assert figure.limit == Beside(8, Interval(1, 0.5, 2))


def test_what_was_saved_is_loaded_and_other_parts_stay(tmp_path: Path):
    record = Record("sbrl bench --parts learner", MACHINE, figures())
    save({"learner": record}, tmp_path)
    save({"replay": record}, tmp_path)
    assert load(tmp_path / "bench.json") == {"learner": record, "replay": record}
    assert (tmp_path / "bench.png").stat().st_size > 1000
    assert load(tmp_path / "none.json") == {}


def test_a_table_has_a_row_for_each_figure_and_a_column_for_each_neighbour():
    record = Record("sbrl bench --parts learner", MACHINE, figures())
    page = "before\n<!-- bench: learner -->\nold\n<!-- end -->\nbetween\n<!-- bench: replay -->\nkept\n<!-- end -->\n"
    assert documents.with_tables(page, {"learner": record}) == (
        "before\n<!-- bench: learner -->\n"
        "`sbrl bench --parts learner` on A processor, 2 cores, no GPU, load 0.5 before, 2026-01-02:\n\n"
        "|  | SBRL, updates/s | peer | other | limit |\n|---|---|---|---|---|\n"
        "| batch 8 | **60** (50 to 70) | 30 (2.00 x) | 70 (1.00 x; 0.50 to 1.00) |  |\n"
        "| batch 32 | **1,234** |  |  | 2,469 (0.50 x) |\n"
        "<!-- end -->\nbetween\n<!-- bench: replay -->\nkept\n<!-- end -->\n"
    )


def test_the_documents_tables_are_those_of_its_records():
    """None is edited by hand: `sbrl bench --document` writes both."""
    page, records = documents.PAGE.read_text(encoding="utf-8"), load(documents.RECORDS)
    assert records
    assert all(f"<!-- bench: {part} -->" in page for part in records)
    assert documents.with_tables(page, records) == page


def test_documenting_puts_new_records_in_the_old_ones_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(documents, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(documents, "RECORDS", tmp_path / "bench.json")
    (tmp_path / "page.md").write_text(
        "<!-- bench: actor -->\n<!-- end -->\n<!-- bench: run -->\n<!-- end -->\n", encoding="utf-8"
    )
    for part in ("actor", "run"):
        documents.document({part: Record("command", MACHINE, figures())})
    assert sorted(load(tmp_path / "bench.json")) == ["actor", "run"]
    assert (tmp_path / "page.md").read_text(encoding="utf-8").count("| batch 8 |") == 2


def test_progress_tells_the_time_that_is_left():
    now, said = [0.0], list[str]()
    progress = Progress({"learner": 100.0, "replay": 50.0}, said.append, lambda: now[0])
    tick = progress.part("learner")
    for seconds, share in ((5.0, 0.1), (20.0, 0.5), (39.0, 0.9), (40.0, 1.0)):
        now[0] = seconds
        tick(share)
    now[0] = 200.0  # twice as long as expected
    progress.part("replay")
    assert said == [
        "bench: learner, part 1 of 2; ETA 2m 30s",
        "bench: learner 50%; ETA 1m 10s",
        "bench: learner 90%; ETA 54s",
        "bench: replay, part 2 of 2; ETA 1m 40s",
    ]


def test_where_the_start_of_a_run_went():
    courses = [
        Course({"joined": 2.0, "first update": total}, {"launcher": 1.0, "learner": 2.5}, 100.0) for total in (4.0, 16.0, 8.0)
    ]
    joined, used, first = start_figures(courses)
    assert (joined.name, joined.value.median, joined.limit) == ("start: joined", 2, None)
    assert used.value.median == 3.5
    assert first.limit == Beside(8, Interval(1, 0.5, 2))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--parts", "learner,lerner"], "'lerner' is none of learner, replay, actor, run"),
        (["--turns", "2"], "'2' is no whole number from 3"),
        (["--pears"], "unrecognized arguments: --pears; did you mean '--peers' or '--parts'?"),
    ],
)
def test_bad_words_are_refused_in_one_line(words: list[str], complaint: str):
    command = [sys.executable, "-m", "sbrl.cli", "bench", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_peers_need_their_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from bench.peers import client
    from sbrl.errors import UsageError

    monkeypatch.setattr(client, "FOLDER", tmp_path)
    with pytest.raises(UsageError, match="call `make bench-peers`, which makes it"):
        client.check_ready()
    monkeypatch.setattr(client, "CONSTRAINTS", tmp_path / "none")
    with pytest.raises(UsageError, match="a checkout makes"):
        client.check_ready()
