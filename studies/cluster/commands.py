"""`sbrl study submit`, `collect`, `status --cluster` and `pod`: a study on Kubernetes, from a laptop."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from sbrl.cli.commands import EXIT_INTERRUPTED
from sbrl.errors import RunError, UsageError
from sbrl.runtime.stop_signals import StopRequest, catch_stop_signals
from studies.arms import PlannedRun, arms_of, compared_runs, tuning_runs
from studies.cluster import api
from studies.cluster.manifests import Placement, job_name, manifests
from studies.cluster.pod import make_run, unpacked
from studies.design import Study, find_study, load_study
from studies.making import Maker, Places
from studies.records import load_record, load_records, write_record
from studies.tuning import choose, chosen_variants, write_choices

Say = Callable[[str], None]


def add_submit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", required=True, help="what pods run: the image of this version of SBRL, IMAGE:TAG")
    parser.add_argument("--parallelism", type=int, default=8, metavar="N", help="pods at a time (default: %(default)s)")
    parser.add_argument("--cpu", default="1", help="a pod's request, as Kubernetes writes it (default: %(default)s)")
    parser.add_argument("--memory", default="2Gi", help="a pod's request and limit (default: %(default)s)")
    parser.add_argument("--gpus", type=int, default=0, metavar="N", help="a pod's GPUs (default: none)")
    parser.add_argument(
        "--queue", default="", metavar="NAME", help="Kueue's LocalQueue, as the label kueue.x-k8s.io/queue-name"
    )
    parser.add_argument(
        "--claim",
        default="",
        metavar="NAME",
        help="a PersistentVolumeClaim (ReadWriteMany for several nodes) for what runs have: an evicted run of all roles is "
        "resumed there; without it, it starts again",
    )
    parser.add_argument("--spot", default="", metavar="KEY=VALUE", help="run on nodes with this label, and tolerate its taint")
    parser.add_argument("--retry-failed", action="store_true", help="submit runs again that have failed twice before")
    parser.add_argument("--dry-run", action="store_true", help="print the manifests, and submit nothing")


def submit(arguments: argparse.Namespace, places: Places, say: Say) -> int:
    """Submits the missing runs: first those that tune, and once these are collected, those that test."""
    study, source = load_study(arguments.study), find_study(arguments.study).read_text(encoding="utf-8")
    _check(arguments)
    runs, chosen = missing(study, places, arguments.retry_failed)
    if not runs:
        say(f"nothing to submit: all runs are in {places.results}")
        return 0
    if arguments.dry_run:
        made = manifests(study, source, runs, chosen, _placement(arguments, arguments.namespace or "default"))
        say(yaml.safe_dump_all(made, sort_keys=False).rstrip())
        return 0
    with contextlib.closing(_connect(arguments)) as cluster:
        config_map, job = manifests(study, source, runs, chosen, _placement(arguments, cluster.namespace))
        with contextlib.suppress(api.ApiConflict):  # from an interrupted submission: the same name means the same content
            api.create(cluster, config_map)
        try:
            api.create(cluster, job)
        except api.ApiConflict:
            raise RunError(
                f"job {job_name(study, runs)} has these {len(runs)} runs already: look with `sbrl study status --cluster`, "
                f"fetch with `sbrl study collect`, or delete it to submit them again"
            ) from None
    what = "tuning runs; collect them, then submit again for the test runs" if runs[0].purpose == "tune" else "test runs"
    say(f"job {job_name(study, runs)} in namespace {cluster.namespace}: {len(runs)} {what}")
    return 0


def missing(study: Study, places: Places, retry_failed: bool) -> tuple[list[PlannedRun], dict[str, str]]:
    """(the runs to make next, by arm the variant that its tuning chose)."""
    maker, arms = Maker(study, places), arms_of(study)

    def left(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
        records = [(run, maker.recorded(run)) for run in runs]
        return [run for run, one in records if one is None or (one.status == "failed" and retry_failed)]

    tuning = tuning_runs(study, arms)
    if left(tuning):
        return left(tuning), {}
    if not tuning:
        return left(compared_runs(study, arms, {})), {}
    records = load_records(places.results)
    choices = {arm.name: choose(study, arm, records) for arm in arms}
    write_choices(places.results, choices)
    usable = [arm for arm in arms if choices[arm.name].chosen is not None]
    variants = chosen_variants(study, usable, choices)
    return left(compared_runs(study, usable, variants)), {arm: variant.name for arm, variant in variants.items()}


def collect(arguments: argparse.Namespace, places: Places, say: Say) -> int:
    """Copies the records of finished pods into the results; exit code 1 if a pod's log has none."""
    study = load_study(arguments.study)
    known = {run.folder for run in _all_runs(study)}
    fresh, empty = 0, []
    with contextlib.closing(_connect(arguments)) as cluster, tempfile.TemporaryDirectory() as scratch:
        for name, log in api.logs(cluster, study.name):
            files = unpacked(log.splitlines())
            if files is None:
                empty.append(name)
                continue
            folder = Path(scratch, name)
            folder.mkdir()
            for file, text in files.items():
                (folder / file).write_text(text, encoding="utf-8")
            record = load_record(folder)
            if record.folder not in known:
                raise UsageError(
                    f"pod {name} has {record.folder}, which is no run of the study as it is now: put the file back"
                )
            if not (places.results / record.folder / "record.json").exists():
                write_record(places.results, record)
                fresh += 1
    say(f"{fresh} new records in {places.results}")
    for name in empty:
        say(f"pod {name} is done, but its log has no record: the log is gone, or cut off; delete its job, and submit again")
    return 1 if empty else 0


def cluster_status(arguments: argparse.Namespace, console: Console) -> int:
    """Shows the study's jobs; exit code 1 if one is not complete."""
    study = load_study(arguments.study)
    with contextlib.closing(_connect(arguments)) as cluster:
        found = api.jobs(cluster, study.name)
    table = Table(box=None, header_style="bold")
    for name in ("job", "runs", "done", "at work", "failed", "state"):
        table.add_column(name, justify="left" if name in ("job", "state") else "right")
    for job in found:
        status, spec = job.get("status", {}), job["spec"]
        numbers = (str(spec["completions"]), *(str(status.get(key, 0)) for key in ("succeeded", "active")))
        table.add_row(job["metadata"]["name"], *numbers, status.get("failedIndexes", ""), _state(job))
    console.print(table if found else f"no job of study {study.name} is in namespace {cluster.namespace}")
    return 0 if found and all(_state(job) == "Complete" for job in found) else 1


def pod(arguments: argparse.Namespace, say: Say) -> int:
    """Makes one run in a pod."""
    stop = StopRequest()
    catch_stop_signals(lambda _number: say("stopping") if stop.ask() == 1 else None)
    return 0 if make_run(arguments.folder, arguments.index, arguments.work, stop, say) else EXIT_INTERRUPTED


def _state(job: Mapping[str, Any]) -> str:
    conditions = [one["type"] for one in job.get("status", {}).get("conditions") or [] if one["status"] == "True"]
    if job["spec"].get("suspend"):
        return "Suspended"
    return next((name for name in ("Complete", "Failed") if name in conditions), "Running")


def _all_runs(study: Study) -> list[PlannedRun]:
    arms = arms_of(study)
    return [*tuning_runs(study, arms), *compared_runs(study, arms, {})]


def _placement(arguments: argparse.Namespace, namespace: str) -> Placement:
    return Placement(
        image=arguments.image,
        namespace=namespace,
        parallelism=arguments.parallelism,
        cpu=arguments.cpu,
        memory=arguments.memory,
        gpus=arguments.gpus,
        queue=arguments.queue,
        claim=arguments.claim,
        spot=arguments.spot,
    )


def _connect(arguments: argparse.Namespace) -> api.Cluster:
    return api.connect(arguments.kubeconfig, arguments.context, arguments.namespace)


def _check(arguments: argparse.Namespace) -> None:
    if arguments.spot and not all(arguments.spot.partition("=")[::2]):
        raise UsageError(f"--spot {arguments.spot}: it must be KEY=VALUE, such as cloud.google.com/gke-spot=true")
    for name, least in (("parallelism", 1), ("gpus", 0)):
        if getattr(arguments, name) < least:
            raise UsageError(f"--{name} {getattr(arguments, name)} must be at least {least}")
