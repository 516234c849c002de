"""`sbrl snapshot` against a stand-in for the Kubernetes API. A callback in place of the snapshot controller writes statuses."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from sbrl.backup import snapshots
from sbrl.errors import RunError, UsageError
from tests.chart.helm import ROOT
from tests.integration.kubernetes_stand_in import ApiStandIn, Call, Refused, labels

PLURAL = snapshots.PLURAL
PARTS = ("learner", "replay-0", "replay-1", "coordinator")
CLAIMS = [f"{part}=data-sbrl-{part if part.startswith('replay') else f'{part}-0'}" for part in PARTS]
NAME = "20261128-030000"
JOB = f"sbrl-backup-{int(datetime(2026, 11, 28, 3, tzinfo=UTC).timestamp() / 60)}"
# The rights that the chart grants, and no more (tests/chart/test_snapshots.py holds the chart to them).
RULES = [{"apiGroups": ["snapshot.storage.k8s.io"], "resources": [PLURAL], "verbs": ["create", "list", "delete"]}]
READY = {"creationTime": "2026-11-28T03:00:00Z", "readyToUse": True}
Status = Callable[[int], dict[str, Any]]  # of the n-th look at a snapshot, from 0


def in_turn(look: int) -> dict[str, Any]:
    """As most storage has it: cut first, ready later."""
    cut = {"creationTime": READY["creationTime"], "readyToUse": False}
    return [{}, cut, cut, READY][min(look, 3)]


class Storage:
    """Gives each snapshot its next status before each look at it, and records what was there when one was created."""

    def __init__(self, api: ApiStandIn) -> None:
        self.api, self.name, self.looks = api, NAME, Counter[str]()
        self.status: dict[str, Status] = {}  # by part
        self.created: list[tuple[str, dict[str, Any], float]] = []  # (part, statuses of the others, when)
        api.rules["backup"] = RULES
        api.before = self

    def __call__(self, call: Call) -> None:
        if call.verb == "create":
            part = call.body["metadata"]["labels"]["sbrl/part"]
            there = {part_of(one): one.get("status", {}) for one in self.api.all(PLURAL) if backup_of(one) == self.name}
            self.created.append((part, there, time.monotonic()))
        elif call.verb == "list":
            for one in sorted(self.api.all(PLURAL), key=part_of, reverse=True):
                if backup_of(one) == self.name:
                    look = self.looks[part_of(one)]
                    self.looks[part_of(one)] += 1
                    put(self.api, part_of(one), self.name, status=self.status.get(part_of(one), in_turn)(look), **kept(one))

    def parts(self) -> list[str]:
        return [part for part, *_ in self.created]


def part_of(one: dict[str, Any]) -> str:
    return str(one["metadata"]["labels"]["sbrl/part"])


def backup_of(one: dict[str, Any]) -> str:
    return str(one["metadata"]["labels"]["sbrl/backup"])


def kept(one: dict[str, Any]) -> dict[str, Any]:
    return {"job": one["metadata"]["labels"]["sbrl/job-uid"], "spec": one["spec"]}


def put(api, part, backup=NAME, release="sbrl", job="uid-1", days_ago=0.0, status=READY, spec=None):
    """A snapshot as this program makes it."""
    marks = {"sbrl/backup": backup, "sbrl/part": part, "sbrl/shards": "2", "sbrl/job-uid": job}
    created = f"{datetime.now(UTC) - timedelta(days=days_ago):%Y-%m-%dT%H:%M:%SZ}"
    every = {**labels("backup", release), **marks}
    api.put(PLURAL, f"{release}-{part}-{backup}", labels=every, created=created, status=status, spec=spec or {})


def backups(api: ApiStandIn) -> dict[str, set[str]]:
    """The parts of each backup that are there."""
    found: dict[str, set[str]] = {}
    for one in api.all(PLURAL):
        release = one["metadata"]["labels"]["app.kubernetes.io/instance"]
        found.setdefault(f"{release}/{backup_of(one)}", set()).add(part_of(one))
    return found


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(snapshots, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(snapshots, "HEARD_SECONDS", 0.1)


@pytest.fixture
def storage(api) -> Storage:
    return Storage(api)


@pytest.fixture
def take(tool):
    """Takes a backup with the rights that a pod has; returns what is printed."""

    def take(*more: str, job: str = JOB, uid: str = "uid-1") -> str:
        arguments = [
            *CLAIMS,
            "--release=sbrl",
            "--class=csi",
            f"--job={job}",
            f"--job-uid={uid}",
            "--timeout-seconds=20",
            *more,
        ]
        return str(tool(snapshots.main, *arguments, token="backup"))

    return take


def test_the_coordinator_is_last_once_it_has_heard_of_what_the_others_hold(api, storage, take):
    assert take() == f"rl/sbrl/{NAME} is whole: {', '.join(PARTS)}\n"
    assert storage.parts() == list(PARTS)
    *others, (_, there, last) = storage.created
    assert all(not status for _, before, _ in others for status in before.values())  # not one after the other
    assert {part: bool(status["creationTime"]) for part, status in there.items()} == dict.fromkeys(PARTS[:-1], True)
    assert last - max(when for *_, when in others) >= 0.1
    assert backups(api) == {f"sbrl/{NAME}": set(PARTS)}
    assert all(one["status"] == READY for one in api.all(PLURAL))


def test_every_snapshot_says_what_it_is_of_and_is_what_the_cluster_takes(api, storage, take):
    take()
    bodies = [call.body for call in api.calls if call.verb == "create"]
    for body, claim in zip(bodies, CLAIMS, strict=True):
        part, _, name = claim.partition("=")
        assert body["metadata"]["name"] == f"sbrl-{part}-{NAME}"
        assert body["spec"] == {"volumeSnapshotClassName": "csi", "source": {"persistentVolumeClaimName": name}}
        assert body["metadata"]["labels"] == {
            "app.kubernetes.io/instance": "sbrl",
            "app.kubernetes.io/component": "backup",
            "sbrl/backup": NAME,
            "sbrl/part": part,
            "sbrl/shards": "2",
            "sbrl/job-uid": "uid-1",
        }
    command = [sys.executable, str(ROOT / "scripts/kubernetes_schemas.py")]
    text = yaml.safe_dump_all(bodies)
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_nothing_is_whole_before_all_is_ready(storage, take):
    """Some storage uploads for minutes after the cut."""
    storage.status["replay-1"] = lambda look: READY if look > 20 else in_turn(min(look, 2))
    take()
    assert storage.looks["coordinator"] > 4
    assert storage.created[-1][1]["replay-1"]["readyToUse"] is False  # nobody waits for the upload with the coordinator's


def test_an_error_that_passes_is_none(storage, take):
    storage.status["replay-0"] = lambda look: {"error": {"message": "busy"}} if look < 5 else READY
    assert "is whole" in take()


def test_an_error_that_stays_is_told_in_one_line(api, storage, take, monkeypatch):
    monkeypatch.setattr(snapshots, "ERROR_SECONDS", 0.05)
    storage.status["replay-0"] = lambda look: {"readyToUse": False, "error": {"message": "no class\n  csi"}}
    with pytest.raises(RunError) as caught:
        take()
    assert str(caught.value) == f"the snapshot sbrl-replay-0-{NAME} of data-sbrl-replay-0 fails: no class csi"
    assert "coordinator" not in storage.parts()


@pytest.mark.parametrize(
    ("part", "status", "said"),
    [
        ("learner", {}, "not cut: learner"),
        ("coordinator", {"readyToUse": False}, "not ready: coordinator"),
        ("replay-1", {"error": {"message": "quota"}}, "not cut: replay-1; replay-1: quota"),
    ],
)
def test_the_deadline_is_told_with_what_is_missing(storage, take, part, status, said):
    storage.status[part] = lambda look: status
    with pytest.raises(RunError) as caught:
        take("--timeout-seconds=1")
    assert str(caught.value) == f"rl/sbrl/{NAME} is not whole after 1 s: {said}"


def test_the_next_pod_of_a_job_goes_on_where_the_one_before_was_killed(api, storage, take):
    put(api, "learner", status={})
    put(api, "replay-0", status={})
    take()
    assert storage.parts() == ["replay-1", "coordinator"]
    assert backups(api) == {f"sbrl/{NAME}": set(PARTS)}
    take()  # killed after all was ready
    assert storage.parts() == ["replay-1", "coordinator"]


def test_another_job_of_the_same_name_makes_no_second_backup_of_that_name(api, storage, take):
    storage.name = "before2"
    take(job="sbrl-backup-before2")
    with pytest.raises(UsageError, match="there is already a backup before2: choose another end of the Job's name"):
        take(job="sbrl-backup-before2", uid="uid-2")
    assert backups(api) == {"sbrl/before2": set(PARTS)}


def test_a_snapshot_that_is_deleted_meanwhile_is_made_again(api, storage, take):
    def delete_another(look: int) -> dict[str, Any]:
        if look == 1:
            api.drop(PLURAL, f"sbrl-replay-0-{NAME}")
        return in_turn(look)

    storage.status["learner"] = delete_another
    take()
    assert storage.parts() == ["learner", "replay-0", "replay-1", "replay-0", "coordinator"]


def test_one_that_is_deleted_after_the_coordinators_is_not(api, storage, take):
    """A new one would hold what the coordinator in this backup has not heard of."""
    for part in ("learner", "replay-1", "coordinator"):
        put(api, part)
    with pytest.raises(RunError, match=f"the snapshot of replay-0 in backup {NAME} was deleted meanwhile"):
        take()
    assert not storage.created


def test_the_newest_whole_backups_are_kept(api, storage, take):
    for days_ago in (1, 2, 3, 4):
        for part in PARTS:
            put(api, part, backup=f"day-{days_ago}", days_ago=days_ago)
    api.drop(PLURAL, "sbrl-replay-1-day-3")  # somebody has: it is no backup any more
    put(api, "learner", backup="begun", days_ago=1e-4)  # another Job's, which may still be at work
    put(api, "learner", backup="failed", days_ago=1, status={"error": {"message": "no"}})
    for part in PARTS:
        put(api, part, backup="day-9", release="other", days_ago=9)
    assert "deleted: unfinished" in take("--keep=2")
    assert backups(api) == {
        **{f"sbrl/{name}": set(PARTS) for name in (NAME, "day-1")},
        "sbrl/begun": {"learner"},
        "other/day-9": set(PARTS),
    }
    deleted = [call.name for call in api.calls if call.verb == "delete" and call.name.endswith("day-2")]
    assert deleted[0] == "sbrl-coordinator-day-2"
    assert len(deleted) == 4


def test_failing_backups_do_not_pile_up(api, storage, take):
    for days_ago in (1, 2):
        put(api, "learner", backup=f"day-{days_ago}", days_ago=days_ago, status={})
    storage.status["learner"] = lambda look: {}
    with pytest.raises(RunError, match="not cut"):
        take("--timeout-seconds=1")
    assert backups(api) == {f"sbrl/{NAME}": {"learner", "replay-0", "replay-1"}}


def test_an_api_server_that_is_away_for_a_while_is_waited_for(api, storage, take):
    calls = Counter[str]()

    def away(call: Call) -> None:
        calls[call.verb] += 1
        if calls[call.verb] % 2:
            raise Refused(503, "ServiceUnavailable", "starting")
        storage(call)

    api.before = away
    assert "is whole" in take()
    assert backups(api) == {f"sbrl/{NAME}": set(PARTS)}


def test_a_missing_right_is_named(api, storage, take):
    api.rules["backup"] = [{**RULES[0], "verbs": ["list"]}]
    with pytest.raises(RunError, match="grant the verb 'create' on 'volumesnapshots'"):
        take()


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        (CLAIMS[:-1], "learner, replay-0, replay-1 are not the parts of a run"),
        ([CLAIMS[0], CLAIMS[2], CLAIMS[3]], "learner, replay-1, coordinator are not the parts of a run"),
        ([*CLAIMS, "run=x"], "'run' is none of learner, coordinator"),
        ([*CLAIMS, "replay-2="], "'replay-2=' is no PART=CLAIM"),
    ],
)
def test_parts_that_make_no_run_are_refused(tool, capsys, claims, said):
    with pytest.raises((UsageError, SystemExit)) as caught:
        tool(snapshots.main, *claims, "--release=sbrl", "--class=csi")
    assert said in f"{caught.value}{capsys.readouterr().err}"
