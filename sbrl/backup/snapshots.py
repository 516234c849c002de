"""Takes snapshots of a release's volumes on Kubernetes, as one backup, while the run continues: `sbrl snapshot`.

The order is that of `sbrl backup`: the learner and the shards first, and the coordinator once it has heard of all that they
hold. A backup is whole once it has a snapshot of each part, and all are ready; no other mark could disagree with them.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sbrl.backup.rules import HEARD_SECONDS, KEEP, name_of_job, part_of
from sbrl.cluster import client
from sbrl.cluster.kube import (
    REQUEST_SECONDS,
    ApiConflict,
    ApiNotFound,
    ApiUnavailable,
    Cluster,
    add_cluster_arguments,
    api_errors,
    connect,
)
from sbrl.cluster.release import COMPONENT, INSTANCE
from sbrl.errors import RunError, UsageError
from sbrl.runtime.arguments import Parser, whole_number
from sbrl.runtime.program import run_program

GROUP, VERSION, PLURAL = "snapshot.storage.k8s.io", "v1", "volumesnapshots"
BACKUP, PART, SHARDS, JOB = "sbrl/backup", "sbrl/part", "sbrl/shards", "sbrl/job-uid"  # labels
COORDINATOR = "coordinator"
POLL_SECONDS = 2.0
ERROR_SECONDS = 60.0  # the cluster tries again after an error; one that lasts so long is final


class Snapshot(NamedTuple):
    """A VolumeSnapshot of one part of a backup."""

    name: str
    backup: str
    part: str
    shards: str  # how many the run has
    job: str  # the UID of the Job that created it; "" for none
    created: float  # Unix seconds
    is_cut: bool  # later writes to the volume are not in it
    is_ready: bool  # volumes can be made from it
    error: str


Parts = Mapping[str, Snapshot]  # a backup's snapshots, by part


class Snapshots:
    """The snapshots of one release's backups. Every call raises ApiUnavailable, or RunError if the API server refuses it."""

    def __init__(self, cluster: Cluster, release: str) -> None:
        self._cluster, self._release = cluster, release
        self._api = client.CustomObjectsApi(cluster.api)

    def backups(self) -> dict[str, dict[str, Snapshot]]:
        """All that are not being deleted, by backup and part."""
        selector = f"{INSTANCE}={self._release},{BACKUP},{PART},{SHARDS}"
        with api_errors("list", PLURAL, self._cluster.namespace):
            answer: dict[str, Any] = self._api.list_namespaced_custom_object(
                *self._place, label_selector=selector, _request_timeout=REQUEST_SECONDS
            )
        found: dict[str, dict[str, Snapshot]] = {}
        for one in answer["items"]:
            if "deletionTimestamp" not in one["metadata"]:
                snapshot = _snapshot(one)
                found.setdefault(snapshot.backup, {})[snapshot.part] = snapshot
        return found

    def create(self, backup: str, part: str, claim: str, shards: int, snapshot_class: str, job: str) -> None:
        """Asks for a snapshot. Does nothing if there is one of this backup and part."""
        labels = {INSTANCE: self._release, COMPONENT: "backup", BACKUP: backup, PART: part, SHARDS: str(shards), JOB: job}
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "VolumeSnapshot",
            "metadata": {"name": f"{self._release}-{part}-{backup}", "labels": labels},
            "spec": {"volumeSnapshotClassName": snapshot_class, "source": {"persistentVolumeClaimName": claim}},
        }
        with contextlib.suppress(ApiConflict), api_errors("create", PLURAL, self._cluster.namespace):
            self._api.create_namespaced_custom_object(*self._place, body, _request_timeout=REQUEST_SECONDS)

    def delete(self, snapshot: Snapshot) -> None:
        with contextlib.suppress(ApiNotFound), api_errors("delete", f"{PLURAL} {snapshot.name}", self._cluster.namespace):
            self._api.delete_namespaced_custom_object(*self._place, snapshot.name, _request_timeout=REQUEST_SECONDS)

    @property
    def _place(self) -> tuple[str, str, str, str]:
        return GROUP, VERSION, self._cluster.namespace, PLURAL


class Attempt:
    """A backup that is being made. A restarted Job goes on with what its pod before has begun."""

    def __init__(self, snapshots: Snapshots, name: str, claims: Mapping[str, str], snapshot_class: str, job: str) -> None:
        """
        Args:
            claims: the volume claim of each part.
            job: the UID of the Job that makes this backup; "" for none.
        """
        self._snapshots, self._name, self._claims, self._class, self._job = snapshots, name, claims, snapshot_class, job
        self._others = [part for part in claims if part != COORDINATOR]
        self._cut_time: float | None = None  # since when all others are cut
        self._failing: dict[str, float] = {}  # part -> since when it has an error

    def advance(self) -> str:
        """Does what can be done now. Returns what is still missing, "" once the backup is whole.

        Raises:
            UsageError: there is already a backup of this name.
            RunError: a snapshot has failed for good, was deleted meanwhile, or the API server refuses.
        """
        parts = self._snapshots.backups().get(self._name, {})
        if any(snapshot.job != self._job for snapshot in parts.values()):
            raise UsageError(f"there is already a backup {self._name}: choose another end of the Job's name")
        self._check(parts)
        missing = [part for part in self._others if part not in parts]
        if missing and COORDINATOR in parts:  # one that is cut now would hold what this coordinator has not heard of
            raise RunError(f"the snapshot of {missing[0]} in backup {self._name} was deleted meanwhile: take another backup")
        for part in missing:
            self._create(part)
        if uncut := [part for part in self._others if part not in parts or not parts[part].is_cut]:
            self._cut_time = None
            return self._awaited("cut", uncut, parts)
        if COORDINATOR not in parts:
            self._cut_time = self._cut_time or time.monotonic()
            if time.monotonic() - self._cut_time >= HEARD_SECONDS:
                self._create(COORDINATOR)
            return self._awaited("cut", [COORDINATOR], parts)
        return self._awaited("ready", [part for part, snapshot in parts.items() if not snapshot.is_ready], parts)

    def _create(self, part: str) -> None:
        self._snapshots.create(self._name, part, self._claims[part], len(self._others) - 1, self._class, self._job)

    def _check(self, parts: Parts) -> None:
        now = time.monotonic()
        for part, snapshot in parts.items():
            if not snapshot.error or snapshot.is_ready:
                self._failing.pop(part, None)
            elif now - self._failing.setdefault(part, now) >= ERROR_SECONDS:
                raise RunError(f"the snapshot {snapshot.name} of {self._claims.get(part, part)} fails: {snapshot.error}")

    def _awaited(self, state: str, awaited: Sequence[str], parts: Parts) -> str:
        errors = "".join(f"; {part}: {snapshot.error}" for part, snapshot in parts.items() if snapshot.error)
        return f"not {state}: {', '.join(awaited)}{errors}" if awaited else ""


def main(argv: Sequence[str]) -> None:
    arguments = make_parser().parse_args(argv)
    claims = dict(arguments.claims)
    shards = sum(part.startswith("replay-") for part in claims)
    if claims.keys() != {"learner", COORDINATOR, *(f"replay-{shard}" for shard in range(shards))} or not shards:
        raise UsageError(f"{', '.join(claims)} are not the parts of a run: name learner, coordinator, replay-0, replay-1, ...")
    name = name_of_job(arguments.job, time.time())
    end = time.monotonic() + arguments.timeout_seconds
    with contextlib.closing(connect(arguments.kubeconfig, arguments.context, arguments.namespace)) as cluster:
        snapshots = Snapshots(cluster, arguments.release)
        where = f"{cluster.namespace}/{arguments.release}/{name}"
        # Also before: otherwise backups that all fail would pile up.
        until(lambda: prune(snapshots, arguments.keep, arguments.timeout_seconds), end, "old backups are not deleted")
        attempt = Attempt(snapshots, name, claims, arguments.snapshot_class, arguments.job_uid)
        until(attempt.advance, end, f"{where} is not whole after {arguments.timeout_seconds} s")
        print(f"{where} is whole: {', '.join(claims)}", flush=True)
        until(lambda: prune(snapshots, arguments.keep, arguments.timeout_seconds), end, "old backups are not deleted")


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="sbrl snapshot", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "claims", type=claim_of, nargs="+", metavar="PART=CLAIM", help="the volume claim of learner, coordinator, replay-0, ..."
    )
    parser.add_argument("--release", required=True, metavar="NAME", help="the Helm release, whose backups --keep counts")
    parser.add_argument("--class", required=True, dest="snapshot_class", metavar="NAME", help="the VolumeSnapshotClass")
    parser.add_argument(
        "--keep", type=whole_number(1, 10_000), default=KEEP, metavar="N", help="the backups kept (default: %(default)s)"
    )
    parser.add_argument(
        "--timeout-seconds", type=whole_number(0, 10**6), default=3600, metavar="N", help="until it gives up (default: 3600)"
    )
    parser.add_argument("--job", default="", metavar="JOB", help="names the backup by the end of its Job's name")
    parser.add_argument("--job-uid", default="", metavar="UID", help="tells that Job from another of the same name")
    add_cluster_arguments(parser)
    return parser


def claim_of(text: str) -> tuple[str, str]:
    """(part, claim). Raises argparse.ArgumentTypeError for anything else."""
    part, _, claim = text.partition("=")
    if not claim:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no PART=CLAIM, like learner=data-sbrl-learner-0")
    return part_of(part), claim


def until(step: Callable[[], str], end: float, said: str) -> None:
    """Repeats a step until it returns "". An API server that does not answer is asked again.

    Args:
        end: by time.monotonic.
        said: the error's beginning.

    Raises:
        RunError: this takes too long; the message has what the step returned last.
    """
    while True:
        try:
            awaited = step()
        except ApiUnavailable as error:
            awaited = str(error)
        if not awaited:
            return
        if time.monotonic() > end:
            raise RunError(f"{said}: {awaited}")
        time.sleep(POLL_SECONDS)


def is_whole(parts: Parts) -> bool:
    """Whether a backup has all its parts, and all are ready."""
    if not {"learner", COORDINATOR} <= parts.keys() or not all(snapshot.is_ready for snapshot in parts.values()):
        return False
    return str(len(parts) - 2) == parts[COORDINATOR].shards


def prune(snapshots: Snapshots, keep: int, job_seconds: float) -> str:
    """Deletes all but the newest `keep` whole backups, and those that no Job can be making any more. Returns "".

    Args:
        job_seconds: for how long a Job makes a backup at most.
    """
    backups = snapshots.backups()
    whole = sorted(filter(lambda name: is_whole(backups[name]), backups), key=lambda name: backups[name][COORDINATOR].created)
    begun = {name: min(one.created for one in parts.values()) for name, parts in backups.items() if name not in whole}
    left = [name for name, time_begun in begun.items() if time.time() - time_begun > 2 * job_seconds]
    for name in [*whole[:-keep], *left]:
        # Without the coordinator's, a half-deleted backup does not count.
        for snapshot in sorted(backups[name].values(), key=lambda one: one.part != COORDINATOR):
            snapshots.delete(snapshot)
        print(f"backup {name} is deleted: {'unfinished' if name in left else 'old'}", flush=True)
    return ""


def _snapshot(manifest: Mapping[str, Any]) -> Snapshot:
    metadata, status = manifest["metadata"], manifest.get("status") or {}
    labels, is_ready = metadata["labels"], status.get("readyToUse") is True
    return Snapshot(
        name=metadata["name"],
        backup=labels[BACKUP],
        part=labels[PART],
        shards=labels[SHARDS],
        job=labels.get(JOB, ""),
        created=datetime.fromisoformat(metadata["creationTimestamp"]).timestamp(),
        is_cut=is_ready or status.get("creationTime") is not None,
        is_ready=is_ready,
        error=" ".join(str((status.get("error") or {}).get("message") or "").split())[:500],
    )


if __name__ == "__main__":
    run_program(main)
