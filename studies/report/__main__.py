"""`sbrl report`: the results of runs on one page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from sbrl.errors import UsageError, nearest
from sbrl.runtime.arguments import Parser, number, whole_number
from sbrl.runtime.program import run_program
from studies.costs import load_prices
from studies.evidence import gather
from studies.questions import asked_otherwise, read_evidence
from studies.records import RunRecord
from studies.report.content import make_report
from studies.report.write import PAGE, write_report


def main(argv: Sequence[str]) -> int:
    arguments = make_parser().parse_args(argv)
    question, records = read_evidence(arguments.paths)
    _check_studied(arguments.studied or (), records)
    question = asked_otherwise(
        question, arguments.baseline, arguments.studied or (), arguments.looks or (), arguments.smallest_gain
    )
    report = make_report(gather(question, records), load_prices(arguments.prices), shlex.join(["sbrl", "report", *argv]))
    page = write_report(report, arguments.out or _default_folder(arguments.paths))
    for verdict in report.verdicts:
        print(f"{verdict.title}. {' '.join(verdict.sentences)}")
    print(f"Report: {page}")
    return 0


def make_parser() -> Parser:
    parser = Parser(
        prog="sbrl report",
        description="Writes what a study's runs, or any run directories, show: verdict, curves, cost, settings: docs/report.md",
        epilog="example: sbrl report runs/study-pilot/results, or sbrl report runs/* --baseline batch_size=32",
    )
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="the results of a study, or run directories")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help=f"where {PAGE} and the rest go (default: PATH/report, or report for several)"
    )
    parser.add_argument("--baseline", metavar="ARM", help="the arm that stays unless another is better (default: as planned)")
    parser.add_argument(
        "--studied", action="append", metavar="KEY", help="a config key that arms may differ in, beside those that are planned"
    )
    parser.add_argument(
        "--looks",
        type=whole_number(5, 10_000),
        nargs="+",
        metavar="N",
        help="seeds at which it may be decided, as planned before",
    )
    parser.add_argument("--smallest-gain", type=number(least=0), metavar="SHARE", help="smallest gain worth having, of the IQM")
    parser.add_argument("--prices", type=Path, metavar="FILE", help="CSV with resource,unit,price in USD")
    return parser


def _check_studied(studied: Sequence[str], records: Sequence[RunRecord]) -> None:
    known = sorted({key for record in records for key in record.settings})
    for key in studied:
        if key not in known:
            raise UsageError(
                f"--studied {key!r} is no config key of the runs{nearest(key, known)}; `sbrl config schema` lists them all"
            )


def _default_folder(paths: Sequence[Path]) -> Path:
    return paths[0] / "report" if len(paths) == 1 else Path("report")


if __name__ == "__main__":
    run_program(main)
