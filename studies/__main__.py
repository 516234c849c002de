"""`sbrl study`: compare settings over seeds and environments, from one file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sbrl.cli.commands import EXIT_INTERRUPTED
from sbrl.runtime.arguments import Parser, whole_number
from sbrl.runtime.output import outlive_output
from sbrl.runtime.program import run_program
from sbrl.runtime.stop_signals import StopRequest, catch_stop_signals
from studies.cluster.api import add_cluster_arguments
from studies.cluster.commands import add_submit_arguments, cluster_status
from studies.cluster.commands import collect as collect_study
from studies.cluster.commands import pod as make_pod_run
from studies.cluster.commands import submit as submit_study
from studies.design import find_study, json_schema, list_library, load_study
from studies.making import Places
from studies.plan import plan_study
from studies.runner import run_study
from studies.status import show_status

MAX_JOBS = 1024


def main(argv: Sequence[str]) -> int:
    arguments = make_parser().parse_args(argv)
    code: int = arguments.command(arguments)
    return code


def make_parser() -> Parser:
    parser = Parser(
        prog="sbrl study", description="Compares settings over seeds and environments, from one file: docs/studies.md."
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    actions.add_parser("list", help="list the ready studies").set_defaults(command=_list)
    show = actions.add_parser("show", help="print a ready study's file, to start your own from")
    show.set_defaults(command=_show)
    actions.add_parser("schema", help="print the JSON schema of a study file").set_defaults(command=_schema)

    plan = actions.add_parser("plan", help="say what a study will cost and can show, before it starts")
    plan.add_argument("--jobs", type=whole_number(1, MAX_JOBS), default=1, metavar="N", help="runs at a time (default: 1)")
    plan.add_argument(
        "--no-measurement",
        action="store_true",
        help="leave out the short runs that say what each arm's runs take here",
    )
    plan.set_defaults(command=_plan)

    run = actions.add_parser(
        "run",
        help="make the runs that are missing, N at a time; the same command goes on after anything",
        epilog="example: sbrl study run pilot --jobs 2",
    )
    run.add_argument("--jobs", type=whole_number(1, MAX_JOBS), default=1, metavar="N", help="runs at a time (default: 1)")
    run.add_argument("--retry-failed", action="store_true", help="make runs again that have failed twice before")
    run.add_argument("--keep-runs", action="store_true", help="keep run directories (checkpoints, logs) of what is recorded")
    run.set_defaults(command=_run)

    status = actions.add_parser("status", help="show how far a study is; exit code 1 while runs are missing or have failed")
    status.set_defaults(command=_status)

    status.add_argument("--cluster", action="store_true", help="show its jobs on Kubernetes instead")
    submit = actions.add_parser(
        "submit",
        help="make the runs that are missing on Kubernetes: one Indexed Job, one pod a run",
        epilog="example: sbrl study submit atari-5 --image registry.example/sbrl:0.1 --gpus 1 --claim studies --queue research",
    )
    add_submit_arguments(submit)
    submit.set_defaults(command=lambda arguments: submit_study(arguments, _places_of(arguments), _say))
    collect = actions.add_parser("collect", help="bring the records of pods that are done into the results")
    collect.set_defaults(command=lambda arguments: collect_study(arguments, _places_of(arguments), _say))
    in_pod = actions.add_parser("pod", help="what a pod of a study does: makes one run, prints its record")
    in_pod.add_argument("folder", type=Path, metavar="DIR", help="where the job's ConfigMap is mounted")
    in_pod.add_argument("--index", type=whole_number(0, 2**31 - 1), required=True, metavar="N", help="of the run")
    in_pod.add_argument("--work", type=Path, required=True, metavar="DIR", help="run directories, logs and records")
    in_pod.set_defaults(command=lambda arguments: make_pod_run(arguments, _say))
    for one in (status, submit, collect):
        add_cluster_arguments(one)

    for one in (show, plan, run, status, submit, collect):
        one.add_argument("study", metavar="STUDY", help="a study file, or the name of a ready study (`sbrl study list`)")
    for one in (plan, run, status, submit, collect):
        one.add_argument(
            "--results", type=Path, metavar="DIR", help="the small records of its runs (default: runs/study-NAME/results)"
        )
        one.add_argument("--work", type=Path, metavar="DIR", help="run directories and logs (default: runs/study-NAME/work)")
    return parser


def _list(arguments: argparse.Namespace) -> int:
    table = Table(box=None, header_style="bold")
    for name in ("study", "question"):
        table.add_column(name)
    for listed in list_library():
        table.add_row(listed.name, listed.question)
    Console().print(table)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    print(find_study(arguments.study).read_text(encoding="utf-8"), end="")
    return 0


def _schema(arguments: argparse.Namespace) -> int:
    print(json_schema())
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    study = load_study(arguments.study)
    places = _places(arguments, study.name)
    return 0 if plan_study(study, places, arguments.jobs, measured=not arguments.no_measurement, console=Console()) else 1


def _run(arguments: argparse.Namespace) -> int:
    outlive_output()
    study = load_study(arguments.study)
    stop = StopRequest()
    catch_stop_signals(lambda number: _stopping(number.name, stop.ask()))
    source, places = find_study(arguments.study).read_text(encoding="utf-8"), _places(arguments, study.name)
    complete = run_study(
        study,
        source,
        places,
        arguments.jobs,
        stop,
        _say,
        retry_failed=arguments.retry_failed,
        keep_runs=arguments.keep_runs,
    )
    _say(f"results: {places.results}" if complete else "interrupted: the same command goes on from here")
    return 0 if complete else EXIT_INTERRUPTED


def _status(arguments: argparse.Namespace) -> int:
    if arguments.cluster:
        return cluster_status(arguments, Console())
    study = load_study(arguments.study)
    return 0 if show_status(study, _places(arguments, study.name).results, Console()) else 1


def _places_of(arguments: argparse.Namespace) -> Places:
    return _places(arguments, load_study(arguments.study).name)


def _places(arguments: argparse.Namespace, name: str) -> Places:
    folder = Path("runs") / f"study-{name}"
    return Places(arguments.results or folder / "results", arguments.work or folder / "work")


def _stopping(signal: str, requests: int) -> None:
    if requests == 1:
        _say(f"{signal}: stopping; runs of all roles have 35 s to save what they have")


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    run_program(main)
