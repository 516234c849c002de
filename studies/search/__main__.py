"""`sbrl tune`: search settings of a study jointly, on seeds that are not its test seeds."""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from rich.console import Console
from rich.table import Table

from sbrl.cli.commands import EXIT_INTERRUPTED
from sbrl.errors import RunError, UsageError
from sbrl.runtime.arguments import Parser, whole_number
from sbrl.runtime.output import outlive_output
from sbrl.runtime.program import run_program
from sbrl.runtime.stop_signals import StopRequest, catch_stop_signals
from sbrl.storage.atomic import replace_text
from sbrl.storage.run_directory import RunDirectory
from studies.design import Study, load_study
from studies.making import Places
from studies.pool import Pool
from studies.scales import known_scale

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from studies.search.space import Space

SHOWN = 10  # trials in the table


def main(argv: Sequence[str]) -> int:
    arguments = make_parser().parse_args(argv)
    outlive_output()
    study = load_study(arguments.study)
    if importlib.util.find_spec("optuna") is None:
        raise UsageError(
            "sbrl tune takes Optuna: install the extra 'tune' (pip install 'sbrl[train,tune]', or '.[train,tune]' -c "
            "constraints.txt in a checkout)"
        )
    if not study.seeds.for_tuning:
        raise UsageError(
            f"study {study.name}: seeds.tune has no seed, and a search may not use the test seeds: what is chosen on a seed "
            f"looks better on it than it is; set seeds: {{tune: 3}} and search: {{}}"
        )
    unscaled = [name for name in study.environments if known_scale(name) is None]
    if len(study.environments) > 1 and unscaled:
        raise UsageError(
            f"study {study.name}: a trial's score is a mean over environments, and it is not known which returns of "
            f"{', '.join(unscaled)} are low and high; search on one environment at a time"
        )
    return tune(study, arguments)


def make_parser() -> Parser:
    parser = Parser(
        prog="sbrl tune",
        description=f"{__doc__} Batch size, learning rate, Adam's beta2 and updates per step by default; `search` in the study "
        f"file says otherwise. The same command goes on after anything: docs/studies.md.",
        epilog="example: sbrl tune pilot --trials 40 --jobs 2",
    )
    parser.add_argument("study", metavar="STUDY", help="a study file, or the name of a ready study (`sbrl study list`)")
    parser.add_argument(
        "--trials", type=whole_number(1, 100_000), default=30, metavar="N", help="how many there are to be in all (default: 30)"
    )
    parser.add_argument("--jobs", type=whole_number(1, 1024), default=1, metavar="N", help="runs at a time (default: 1)")
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="Optuna's storage, which processes on several machines can share; each takes a --work of its own (default: "
        "sqlite:///runs/tune-NAME/trials.db)",
    )
    parser.add_argument(
        "--results", type=Path, metavar="DIR", help="records, table and the best arm (default: runs/tune-NAME/results)"
    )
    parser.add_argument("--work", type=Path, metavar="DIR", help="run directories and logs (default: runs/tune-NAME/work)")
    return parser


def tune(study: Study, arguments: argparse.Namespace) -> int:
    """Searches, and writes the table and the best arm to the results. Returns the exit code."""
    import optuna

    from studies.search.space import space_of
    from studies.search.trials import Trials, open_search

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder, space = Path("runs") / f"tune-{study.name}", space_of(study)
    places = Places(arguments.results or folder / "results", arguments.work or folder / "work")
    try:
        places.results.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True) if arguments.storage is None else None
    except OSError as error:
        raise RunError(f"cannot write {places.results}: {error.strerror}") from None
    search = open_search(study, arguments.storage or f"sqlite:///{folder / 'trials.db'}", space)
    stop = StopRequest()
    catch_stop_signals(lambda number: print(f"{number.name}: stopping", flush=True) if stop.ask() == 1 else None)
    with RunDirectory(places.work).lock() as lock:
        worker = f"{socket.gethostname()}:{places.work.resolve()}"
        trials = Trials(study, places, search, Pool(arguments.jobs, stop, [lock]), lambda text: print(text, flush=True), worker)
        complete = trials.run(arguments.trials)
    report(study, space, trials.ended(), places)
    print("" if complete else "interrupted: the same command goes on from here")
    return 0 if complete else EXIT_INTERRUPTED


def report(study: Study, space: Space, ended: Sequence[FrozenTrial], places: Places) -> None:
    """Prints the best trials; writes trials.csv, and best.yaml if a trial is complete."""
    from optuna.trial import TrialState

    from studies.search.space import at_edges
    from studies.search.trials import REASON, SCORES, SETTINGS

    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(["trial", "state", "objective", *space, "scores", "reason"])
    for trial in ended:
        settings = json.loads(trial.user_attrs.get(SETTINGS, "{}"))
        scores = " ".join(f"{score:g}" for score in trial.user_attrs.get(SCORES, []))
        value = "" if trial.state != TrialState.COMPLETE else trial.value
        cells = [settings.get(key, "") for key in space]
        writer.writerow([trial.number, trial.state.name.lower(), value, *cells, scores, trial.user_attrs.get(REASON, "")])
    replace_text(places.results / "trials.csv", rows.getvalue())
    complete = sorted((one for one in ended if one.state == TrialState.COMPLETE), key=lambda one: -(one.value or 0.0))
    if not complete:
        return
    table = Table(box=None, header_style="bold")
    for name in ("trial", "objective", *space):
        table.add_column(name, justify="right")
    for trial in complete[:SHOWN]:
        settings = json.loads(trial.user_attrs[SETTINGS])
        values = (settings[key] for key in space)
        shown = (f"{value:g}" if isinstance(value, float) else str(value) for value in values)
        table.add_row(str(trial.number), f"{trial.value:.4g}", *shown)
    Console().print(table)
    best, seeds = json.loads(complete[0].user_attrs[SETTINGS]), ", ".join(map(str, study.seeds.for_tuning))
    head = (
        f"# The best of {len(ended)} trials of `sbrl tune` on study {study.name}: {study.search.objective} "
        f"{complete[0].value:.6g} over seeds {seeds}.\n"
        f"# It is an arm of a study file. It was chosen on these seeds, so it looks better on them than it is.\n"
    )
    replace_text(places.results / "best.yaml", head + yaml.safe_dump([{"name": "tuned", "settings": best}], sort_keys=False))
    for key in at_edges(space, best):
        print(f"note: {key}={best[key]} is at the edge of what was searched: a better one may lie beyond")
    print(f"best arm: {places.results / 'best.yaml'}; all trials: {places.results / 'trials.csv'}")


if __name__ == "__main__":
    run_program(main)
