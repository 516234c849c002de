"""A shard's checkpoints on a file system that refuses, and those of versions before: nothing good is lost."""

from __future__ import annotations

import errno
import math
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from sbrl.replay.table import ShardServer

from sbrl.config import Config, load
from sbrl.errors import RunError
from sbrl.ports import free_ports
from sbrl.replay import shard_checkpoints
from sbrl.replay.backend import reverb, tf
from sbrl.replay.items import ItemShape
from sbrl.replay.segments import Transition
from sbrl.replay.shard_checkpoints import ShardCheckpoints
from sbrl.replay.writer import EpisodeWriter
from tests.chaos.reading import TABLES, rewrite
from tests.scripted_episodes import frame_of

SHAPE = ItemShape(1, 1, (2,), np.dtype(np.float32))
STEPS = 5
WAIT = 30.0
CHUNKS = "chunks.tfrecord"


def config(capacity: int = 1000) -> Config:
    return load(
        overrides=[
            *("env.id=CartPole-v1", "run.env_steps=1000", "replay.num_shards=1", "replay.min_size=1", "agent.n_step=1"),
            *("agent.n_max=1", "replay.error_buffer=1e9", f"replay.capacity={capacity}"),
        ]
    )


def start(directory: Path, capacity: int = 1000) -> ShardServer:
    (port,) = free_ports("127.0.0.1", 1)
    return ShardServer(config(capacity), SHAPE, 0, port, directory)


def restored_size(directory: Path, capacity: int = 1000) -> int:
    server = start(directory, capacity)
    server.stop()
    return server.restored_size


def names(directory: Path) -> list[str]:
    """What lies in a shard's folder, but for Reverb's own."""
    return sorted(path.name for path in directory.iterdir() if path.name != "reverb")


@pytest.fixture
def checkpoints(tmp_path: Path) -> list[Path]:
    """Two checkpoints in `tmp_path`, of 5 and 10 transitions."""
    server = start(tmp_path)
    writer = EpisodeWriter([f"127.0.0.1:{server.port}"], SHAPE)
    written = []
    for _ in range(2):
        writer.begin(0, frame_of(1)[None], actor=0, incarnation=1, env=0)
        for t in range(STEPS):
            writer.append(Transition(0, 1.0, t == STEPS - 1, frame_of(t + 2), 1))
        writer.end()
        writer.close_episode(WAIT)
        written.append(server.checkpoint())
    writer.close()
    server.stop()
    return written


def test_a_volume_without_hard_links_is_restored_from_copies(
    checkpoints: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> NoReturn:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "link", refuse)
    assert restored_size(tmp_path) == 2 * STEPS
    assert names(tmp_path) == [path.name for path in checkpoints]


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("refused", ["_link_or_copy", "_sha256"])
def test_a_file_system_that_refuses_costs_no_checkpoint(
    checkpoints: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int, refused: str
) -> None:
    def refuse(*paths: Path) -> NoReturn:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(shard_checkpoints, refused, refuse)
    with pytest.raises(RunError, match=os.strerror(reason)) as refusal:
        start(tmp_path)
    assert str(tmp_path) in str(refusal.value)
    assert names(tmp_path) == [path.name for path in checkpoints]
    monkeypatch.undo()
    assert restored_size(tmp_path) == 2 * STEPS


def test_a_full_disk_costs_no_checkpoint_where_fewer_transitions_are_wanted(
    checkpoints: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorFlow's own exceptions are no OSError."""

    def refuse(*arguments: object, **options: object) -> NoReturn:
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.io, "TFRecordWriter", refuse)
    with pytest.raises(RunError, match="No space left on device"):
        start(tmp_path, capacity=7)
    assert names(tmp_path) == [path.name for path in checkpoints]
    monkeypatch.undo()
    assert restored_size(tmp_path, capacity=7) == 7


def test_going_back_on_a_file_system_that_refuses_deletes_nothing(
    checkpoints: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(shard_checkpoints, "_sha256", refuse)
    with pytest.raises(RunError, match="Input/output error"):
        ShardCheckpoints(tmp_path).go_back_to(checkpoints[0].name, "0" * 64)
    assert names(tmp_path) == [path.name for path in checkpoints]


def test_what_a_checkpoint_left_unfinished_makes_room_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reverb would remove it only once it has written the next, and on a full disk it never has."""

    def checkpoint() -> str:
        found.extend(server.checkpoints.reverb_folder.iterdir())
        return str(write())

    server = start(tmp_path)
    leave_unfinished(server)
    found: list[Path] = []
    write = server.client.checkpoint
    monkeypatch.setattr(server.client, "checkpoint", checkpoint)
    written = server.checkpoint()
    server.stop()
    assert found == list(server.checkpoints.reverb_folder.iterdir()) == []
    assert names(tmp_path) == [written.name]


def test_a_checkpoint_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> NoReturn:
        leave_unfinished(server)
        raise RuntimeError("No space left on device")

    server = start(tmp_path)
    monkeypatch.setattr(server.client, "checkpoint", fail)
    with pytest.raises(RuntimeError, match="No space left"):
        server.checkpoint()
    server.stop()
    assert list(server.checkpoints.reverb_folder.iterdir()) == []
    assert names(tmp_path) == []


@pytest.mark.parametrize("limit", [10, 200])  # bytes of a file: none is whole, or the table's settings alone are
def test_a_checkpoint_that_did_not_fit_is_not_taken_for_whole(
    checkpoints: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """Reverb says that it stored it, and would load it as an empty table."""

    def checkpoint() -> str:
        allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, allowed[1]))
        try:
            return str(write())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, allowed)

    server = start(tmp_path)
    write = server.client.checkpoint
    monkeypatch.setattr(server.client, "checkpoint", checkpoint)
    with pytest.raises(ValueError, match="not whole"):
        server.checkpoint()
    monkeypatch.undo()
    assert list(server.checkpoints.reverb_folder.iterdir()) == []
    assert names(tmp_path) == [path.name for path in checkpoints]
    written = server.checkpoint()  # there is room again
    server.stop()
    assert names(tmp_path) == [*(path.name for path in checkpoints), written.name]
    assert restored_size(tmp_path) == 2 * STEPS


def leave_unfinished(server: ShardServer) -> None:
    """Puts what Reverb leaves of a checkpoint that it gave up into its folder."""
    folder = server.checkpoints.reverb_folder / "2024-01-01T00:00:00+00:00"
    folder.mkdir()
    (folder / CHUNKS).write_bytes(b"half of")


def refuse_servers(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Has Reverb refuse to start so many times."""
    make, left = reverb.Server, [times]

    def server(*arguments: object, **options: object) -> object:
        left[0] -= 1
        if left[0] >= 0:
            raise RuntimeError("no such chunk")
        return make(*arguments, **options)

    monkeypatch.setattr(reverb, "Server", server)


def test_one_whole_checkpoint_that_reverb_refuses_is_set_aside(
    checkpoints: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refuse_servers(monkeypatch, times=1)
    assert restored_size(tmp_path) == STEPS
    assert names(tmp_path) == [checkpoints[0].name, f"corrupt-{checkpoints[1].name}"]
    assert f"going on from the one before, {checkpoints[0].name}" in caplog.text


@pytest.mark.parametrize(
    ("forge", "owed"),
    [
        (lambda table: table.ClearField("sampler"), 0.0),  # Reverb aborts the process
        (lambda table: table.ClearField("remover"), 0.0),
        (lambda table: table.ClearField("rate_limiter"), 0.0),  # it waits for ever
        (lambda table: setattr(table.rate_limiter, "delete_count", 99), 0.0),
        (lambda table: setattr(table.rate_limiter, "insert_count", 2**63 - 1), 0.0),  # all items are taken for too many
        (lambda table: None, math.nan),
        (lambda table: None, -math.inf),
    ],
)
def test_settings_that_reverb_cannot_live_with_are_corrupt_whatever_their_checksums(
    checkpoints: list[Path], tmp_path: Path, forge: Callable[[Any], None], owed: float
) -> None:
    newest = checkpoints[1]
    table, contents = shard_checkpoints.read_table(newest), shard_checkpoints.read_manifest(newest)[1]
    forge(table)
    rewrite(newest / TABLES, [table.SerializeToString()])
    (newest / shard_checkpoints.MANIFEST).unlink()
    shard_checkpoints.write_manifest(newest, contents._replace(owed=owed))
    assert restored_size(tmp_path) == STEPS
    assert names(tmp_path) == [checkpoints[0].name, f"corrupt-{newest.name}"]


def test_where_reverb_refuses_two_whole_checkpoints_both_are_left(
    checkpoints: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_servers(monkeypatch, times=2)
    with pytest.raises(RunError, match="no such chunk"):
        start(tmp_path)
    assert names(tmp_path) == [path.name for path in checkpoints]


def test_only_the_newest_corrupt_checkpoint_is_kept(
    checkpoints: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "corrupt-2020").mkdir()
    for path in checkpoints:
        (path / CHUNKS).write_bytes(b"short")
    assert restored_size(tmp_path) == 0
    assert names(tmp_path) == [f"corrupt-{checkpoints[1].name}"]
    assert "there is none before it: starting empty" in caplog.text


def test_a_checkpoint_is_on_disk_before_it_counts(
    checkpoints: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files and their folder are synced before the folder has its final name, and that name before `checkpoint` returns."""
    events: list[str] = []
    sync, rename = os.fsync, Path.rename

    def record_sync(descriptor: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        sync(descriptor)

    def record_rename(path: Path, target: Path) -> Path:
        events.append("renamed")
        return rename(path, target)

    server = start(tmp_path)
    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(Path, "rename", record_rename)
    written = server.checkpoint()
    monkeypatch.undo()
    server.stop()
    files = {path.name for path in written.iterdir() if path.name != shard_checkpoints.MANIFEST}
    before, after = events[: events.index("renamed")], events[events.index("renamed") + 1 :]
    assert set(before[: len(files)]) == files
    assert before[len(files) :] == [f"{shard_checkpoints.MANIFEST}.tmp", written.name]
    assert after == [tmp_path.name]


def test_checkpoints_of_the_layout_before_are_named_and_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "newest/2024").mkdir(parents=True)
    (tmp_path / "earlier").mkdir()
    assert restored_size(tmp_path) == 0
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert f"{tmp_path} has checkpoints of an earlier version of SBRL (earlier, newest), which are not read" in warning
    assert names(tmp_path) == ["earlier", "newest"]
