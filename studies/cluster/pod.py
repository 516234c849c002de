"""A study's pod: makes the run of its index and prints the record for `sbrl study collect`, which reads the log."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

from sbrl.errors import RunError, UsageError
from sbrl.runtime.stop_signals import StopRequest
from sbrl.storage.run_directory import RunDirectory
from studies.arms import PlannedRun, arms_of, compared_runs, tuning_runs, variants_of
from studies.cluster.manifests import STUDY_FILE, SUBMISSION
from studies.design import Study, load_study
from studies.making import Maker, Places
from studies.pool import Pool
from studies.records import EVALUATIONS, RECORD, RETURNS

MARK = "SBRL-RECORD "
FILES = (RETURNS, EVALUATIONS, RECORD)  # the record last: it marks the others as complete


def make_run(mounted: Path, index: int, work: Path, stop: StopRequest, say: Callable[[str], None]) -> bool:
    """Makes the run, unless its record exists, and prints the record; returns False after a stop.

    Args:
        mounted: the mounted ConfigMap.
        work: a folder that pods may share; each one uses its own part.

    Raises:
        UsageError: the study or the index does not match the submission.
    """
    study = load_study(mounted / STUDY_FILE)
    run = run_of(study, (mounted / SUBMISSION).read_text(encoding="utf-8"), index)
    places = Places(work / "results", work / f"work-{index}")
    maker = Maker(study, places)
    try:
        places.results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {places.results}: {error.strerror}") from None
    with RunDirectory(places.work).lock() as lock:
        if (
            maker.recorded(run) is None
            and not maker.record_finished(run)
            and not Pool(1, stop, [lock]).work_off(
                iter([maker.task(run)]), lambda task, end: maker.end(run, task, end, say), lambda _tasks: None
            )
        ):
            return False
    say(packed(places.results / run.folder))
    return True


def run_of(study: Study, submission: str, index: int) -> PlannedRun:
    """The run of an index. Raises UsageError if there is none."""
    tree = json.loads(submission)
    arms = arms_of(study)
    if tree["purpose"] == "tune":
        planned = tuning_runs(study, arms)
    else:
        variants = {arm.name: {one.name: one for one in variants_of(study, arm)} if tree["chosen"] else {} for arm in arms}
        planned = compared_runs(study, arms, {arm: variants[arm][name] for arm, name in tree["chosen"].items()})
    by_name = {run.name: run for run in planned}
    if not 0 <= index < len(tree["runs"]) or tree["runs"][index] not in by_name:
        raise UsageError(f"index {index} is of no run that was submitted: there are {len(tree['runs'])}, from 0")
    return by_name[tree["runs"][index]]


def packed(folder: Path) -> str:
    """A record as one line of a log."""
    files = {name: (folder / name).read_text(encoding="utf-8") for name in FILES}
    return MARK + base64.b64encode(zlib.compress(json.dumps(files).encode(), 9)).decode()


def unpacked(log: Iterable[str]) -> dict[str, str] | None:
    """The files of the last record in a log; None if there is none, or it is incomplete."""
    lines = [line.removeprefix(MARK) for line in log if line.startswith(MARK)]
    if not lines:
        return None
    try:
        files = json.loads(zlib.decompress(base64.b64decode(lines[-1], validate=True)))
    except (ValueError, zlib.error):
        return None
    return files if isinstance(files, dict) and set(files) == set(FILES) else None
