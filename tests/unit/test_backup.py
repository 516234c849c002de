"""Backups in a folder: copies while roles write, the backups that are kept, and refusals."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sbrl.backup import __main__ as making
from sbrl.backup import copies
from sbrl.backup.catalog import choose, find, open_store, prune
from sbrl.backup.rules import HEARD_SECONDS
from sbrl.errors import RunError, SbrlError, UsageError
from sbrl.storage.checkpoints import write_checkpoint
from sbrl.storage.run_directory import RunDirectory
from tests.backups import WEIGHTS, back_up, bring_back, contents, leases, make_run, write_shard_checkpoint

NEWEST = {
    "checkpoints/learner/updates-000000000200/state.json",
    "checkpoints/replay-0/checkpoint-000000000002/items.tfrecord",
    "checkpoints/replay-1/sampling",
    "coordinator/weights-0000000002.safetensors",
    "counts/actor-0.bin",
    "run.yaml",
}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "run")


def test_the_newest_of_everything_comes_back(run: RunDirectory, tmp_path: Path) -> None:
    before = contents(run.path)
    back_up(run, tmp_path / "to", "--name", "a")
    (backup,) = find(open_store(str(tmp_path / "to")))
    assert (backup.run_id, backup.shards) == ("pong-1", 2)
    bring_back(tmp_path / "to", tmp_path / "back")
    after = contents(tmp_path / "back")
    assert NEWEST < after.keys() < before.keys()
    database = "coordinator/state.sqlite"
    assert {path: data for path, data in after.items() if path != database} == {
        path: before[path] for path in after.keys() - {database}
    }
    assert contents(run.path) == before
    # As a pod has it: one part, which is named with the backup it is of.
    bring_back(tmp_path / "to/a", tmp_path / "shard", "--part", "replay-1", "--shards", "2", "--if-empty")
    assert {path.split("/")[1] for path in contents(tmp_path / "shard")} == {"replay-1"}


def test_members_of_the_time_of_the_backup_are_gone(run: RunDirectory, tmp_path: Path) -> None:
    """A live lease would keep its name. The coordinator moves its time on when it starts."""
    assert leases(run) == [(0, 1000.0)]
    back_up(run, tmp_path / "to")
    bring_back(tmp_path / "to", tmp_path / "back")
    assert leases(RunDirectory(tmp_path / "back")) == [(1, 1000.0)]


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def test_a_damaged_checkpoint_is_left_out_for_the_one_before(
    run: RunDirectory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage(run.learner_checkpoints / "updates-000000000200/state.json")
    (run.replay_checkpoints(1) / "checkpoint-000000000002/items.tfrecord").unlink()
    back_up(run, tmp_path / "to", "--name", "a")
    bring_back(tmp_path / "to", tmp_path / "back")
    assert (tmp_path / "back/checkpoints/learner/updates-000000000100").is_dir()
    assert (tmp_path / "back/checkpoints/replay-1/checkpoint-000000000001").is_dir()
    assert caplog.text.count("is left out") == 2
    damage(run.learner_checkpoints / "updates-000000000100/state.json")
    with pytest.raises(RunError, match=r"updates-000000000200 is whole: there is nothing to back up"):
        back_up(run, tmp_path / "to", "--name", "b")
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["a"]


def test_a_checkpoint_that_is_deleted_meanwhile_makes_room_for_the_newer_one(
    run: RunDirectory, tmp_path: Path, monkeypatch
) -> None:
    opened = copies.open_checkpoint
    newer = iter([3])

    def delete_first(of: RunDirectory, checkpoint: Path, closing_stack):
        for number in newer:
            write_shard_checkpoint(run.replay_checkpoints(0), number)
            for path in checkpoint.iterdir():
                path.unlink()
            checkpoint.rmdir()
        return opened(of, checkpoint, closing_stack)

    monkeypatch.setattr(copies, "open_checkpoint", delete_first)
    making.backup_part(run, open_store(str(tmp_path / "to")), "a", "replay-0")
    assert (tmp_path / "to/a/replay-0/checkpoints/replay-0/checkpoint-000000000003").is_dir()


def test_a_role_without_a_checkpoint_has_an_empty_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    for path in run.learner_checkpoints.rglob("*.json"):
        path.unlink()
    for path in run.learner_checkpoints.iterdir():
        path.rmdir()
    back_up(run, tmp_path / "to")
    assert "learner: no checkpoint yet" in capsys.readouterr().out


def test_what_goes_on_is_heard_of_before_the_coordinator_is_copied(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise actors have counted more than the backup's coordinator knows, and it gives those steps out again."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    back_up(run, tmp_path / "to", "--name", "a")
    assert waited == []
    with run.lock():
        back_up(run, tmp_path / "to", "--name", "b")
    assert waited == [HEARD_SECONDS]


def test_only_a_runs_own_old_backups_are_deleted(run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to, other = tmp_path / "to", make_run(tmp_path / "other", run_id="pong-2")
    back_up(other, to, "--name", "other")
    for name in ("c", "b", "a"):  # by time, whatever they are called
        back_up(run, to, "--name", name, "--keep", "2")
    (to / "half").mkdir()
    assert sorted(path.name for path in to.iterdir()) == ["a", "b", "half", "other"]
    with pytest.raises(UsageError, match="backups of several runs: choose one by its name: other, b, a"):
        bring_back(to, tmp_path / "back")
    yesterday = time.time() - 90_000
    os.utime(to / "half", (yesterday, yesterday))
    prune(open_store(str(to)), "pong-1", 1)
    assert sorted(path.name for path in to.iterdir()) == ["a", "other"]
    with pytest.raises(UsageError, match="has a backup a already"):
        back_up(run, to, "--name", "a")


def test_on_a_full_disk_nothing_is_left(run: RunDirectory, tmp_path: Path) -> None:
    """Neither of a backup nor of a restore. The kernel refuses longer files, like a full disk."""
    back_up(run, tmp_path / "to", "--name", "good")

    def main(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", *words]
        limit = (2000, 2000)
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
        )

    large = run.learner_checkpoints / "updates-000000000200"
    copies_before = contents(tmp_path / "to")
    write_checkpoint(large.parent, 300, {"state.json": b"x" * 5000})
    for words, said in (
        (("sbrl.backup", str(run.path), str(tmp_path / "to")), "for backups: File too large"),
        (("sbrl.backup.restore", str(tmp_path / "to"), str(tmp_path / "back")), "File too large"),
    ):
        done = main(*words)
        assert done.returncode == 1, done.stderr
        (line,) = done.stderr.splitlines()
        assert said in line
    assert contents(tmp_path / "to") == copies_before
    assert not list((tmp_path / "back").iterdir())


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("learner/checkpoints/learner/updates-000000000200/state.json", b"?", "state.json is not what was written"),
        ("learner/checkpoints/learner/updates-000000000200/state.json", None, "state.json is missing"),
        ("learner.json", b"{}", "learner.json is not the one that was written"),
        ("learner.json", None, "a/learner.json is missing"),
        ("backup.json", b"{", "backup.json cannot be read"),
        ("backup.json", b"[]", "backup.json cannot be read"),
        ("backup.json", b'{"format": 1, "run_id": "", "made": 0, "parts": {"../x": ""}}', "its parts are not those of a run"),
        ("backup.json", b'{"format": 2}', "is a backup of format 2, and this version of SBRL reads 1"),
        ("backup.json", None, "has no backup: a whole one is a folder with backup.json in it"),
    ],
)
def test_a_damaged_backup_is_refused(run: RunDirectory, tmp_path: Path, file: str, content: bytes | None, said: str) -> None:
    back_up(run, tmp_path / "to", "--name", "a")
    path = tmp_path / "to/a" / file
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SbrlError, match=said) as raised:
        bring_back(tmp_path / "to", tmp_path / "back")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "back").exists() or not list((tmp_path / "back").iterdir())


def test_one_that_is_damaged_keeps_nobody_from_the_others(
    run: RunDirectory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b"):
        back_up(run, tmp_path / "to", "--name", name)
    (tmp_path / "to/b/backup.json").write_text("{")
    bring_back(tmp_path / "to", tmp_path / "back")
    assert "to/b is damaged: backup.json cannot be read" in caplog.text
    back_up(run, tmp_path / "to", "--name", "c", "--keep", "1")
    with pytest.raises(UsageError, match="has no whole backup b; there are: c"):
        choose(open_store(str(tmp_path / "to")), "b")


@pytest.mark.parametrize("path", ["../outside", "/etc/outside", ""])
def test_a_backup_writes_nothing_outside(run: RunDirectory, tmp_path: Path, path: str) -> None:
    back_up(run, tmp_path / "to", "--name", "a")
    lists = tmp_path / "to/a/learner.json"
    data = json.dumps({"format": 1, "files": {path: {"sha256": "", "bytes": 0}}}).encode()
    lists.write_bytes(data)
    whole = tmp_path / "to/a/backup.json"
    content = json.loads(whole.read_text())
    content["parts"]["learner"] = hashlib.sha256(data).hexdigest()
    whole.write_text(json.dumps(content))
    with pytest.raises(RunError, match="outside of a run's directory"):
        bring_back(tmp_path / "to", tmp_path / "back")


def test_what_is_there_stays(run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    back_up(run, tmp_path / "to", "--name", "a")
    target = tmp_path / "back"
    (target / "lost+found").mkdir(parents=True)
    bring_back(tmp_path / "to", target, "--part", "replay-0", "--if-empty")
    before = contents(target)
    assert before
    with pytest.raises(UsageError, match="is not empty"):
        bring_back(tmp_path / "to", target)
    capsys.readouterr()
    bring_back(Path("/not/there"), target, "--part", "replay-0", "--if-empty")  # asks nobody for a backup
    assert "has data: nothing is restored" in capsys.readouterr().out
    assert contents(target) == before


def test_a_restore_that_was_cut_short_begins_again(run: RunDirectory, tmp_path: Path) -> None:
    back_up(run, tmp_path / "to", "--name", "a")
    target = tmp_path / "back"
    (target / ".restoring/checkpoints").mkdir(parents=True)
    (target / "coordinator").mkdir()
    (target / "coordinator/half").touch()
    bring_back(tmp_path / "to", target, "--if-empty")
    assert contents(target).keys() > NEWEST
    assert not (target / "coordinator/half").exists()
    assert not (target / ".restoring").exists()


def test_another_number_of_shards_is_refused(run: RunDirectory, tmp_path: Path) -> None:
    back_up(run, tmp_path / "to", "--name", "a")
    with pytest.raises(UsageError, match=r"with 2 shards, and replay.num_shards is 3: set it to 2"):
        bring_back(tmp_path / "to/a", tmp_path / "back", "--part", "learner", "--shards", "3")
    with pytest.raises(RunError, match=r"has no part replay-2: it has coordinator, learner, replay-0, replay-1, run"):
        bring_back(tmp_path / "to/a", tmp_path / "back", "--part", "replay-2")
    with pytest.raises(UsageError, match="has no whole backup b; there are: a"):
        choose(open_store(str(tmp_path / "to")), "b")


def test_pods_make_one_backup_together(run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pod has one volume, and the coordinator's waits for the others. Jobs of the same minute name the same backup."""
    monkeypatch.setattr(making, "HEARD_SECONDS", 0.0)
    monkeypatch.setattr(making, "POLL_SECONDS", 0.01)
    to, config = tmp_path / "to", tmp_path / "run.yaml"
    config.write_text("metadata: {run_id: rl/sbrl}\n")
    common = ["--run-id", "rl/sbrl", "--keep", "1"]
    last = ["--part", "coordinator", "--after", "learner,replay-0,replay-1", "--config", str(config), *common]
    for ending, name in (("29400000", "20251124-160000"), ("29400001", "20251124-160100"), ("byhand", "byhand")):
        for part in ("replay-1", "learner", "replay-0"):
            with pytest.raises(RunError, match=r"has no .* after 0 s"):
                back_up(run, to, *last, "--job", f"sbrl-backup-coordinator-{ending}", "--timeout-seconds", "0")
            back_up(run, to, "--part", part, "--job", f"sbrl-backup-{part}-{ending}", *common)
        back_up(run, to, *last, "--job", f"sbrl-backup-coordinator-{ending}")
        (only,) = find(open_store(str(to)))
        assert (only.name, only.run_id, only.shards) == (name, "rl/sbrl", 2)
        assert [path.name for path in to.iterdir()] == [name]
    bring_back(to, tmp_path / "back")
    assert (tmp_path / "back/run.yaml").read_text() == config.read_text()
    with pytest.raises(UsageError, match="has a backup byhand already"):
        back_up(run, to, "--part", "learner", "--job", "sbrl-backup-learner-byhand")


def test_where_there_is_no_run_or_no_name(run: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no run: it has no run\.yaml"):
        back_up(RunDirectory(tmp_path / "none"), tmp_path / "to")
    with pytest.raises(UsageError, match="is no name for a backup"):
        back_up(run, tmp_path / "to", "--name", "../a")
    with pytest.raises(SystemExit):
        back_up(run, tmp_path / "to", "--part", "weights")
    assert (run.coordinator / "weights-0000000002.safetensors").read_bytes() == WEIGHTS
