"""A shard's checkpoints: what they restore, their order, and failing file systems, on which no good one is lost."""

from __future__ import annotations

import errno
import math
import os
import resource
import shutil
import subprocess
import zlib
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from sbrl.config import load
from sbrl.envs.spec import EnvSpec
from sbrl.errors import RunError
from sbrl.replay import shard, shard_checkpoints
from sbrl.replay.backend import reverb
from sbrl.replay.log_fill import LogFill
from sbrl.replay.segment_tables import QUEUE, segment_of
from sbrl.replay.segments import Segment, SegmentShape
from sbrl.replay.shard import ShardServer
from sbrl.replay.shard_checkpoints import ShardCheckpoints
from sbrl.rpc.ports import free_ports
from tests.integration.segment_shards import write_steps

SPEC = EnvSpec(2, (2,), np.dtype(np.float32), 1, "vector", clip_rewards=False)
CONFIG = load(
    overrides=[
        *("env.id=CartPole-v1", "run.env_steps=1000", "replay.num_shards=1", "replay.min_size=1", "agent.n_step=1"),
        *("agent.n_max=1", "replay.capacity=1000", "replay.sampling=cached"),
    ]
)
SHAPE = SegmentShape.of(SPEC, CONFIG.agent.stored_steps)
SEGMENTS = 3  # in the first checkpoint; twice as many in the second
CHUNKS = "chunks.tfrecord"


@pytest.fixture(autouse=True)
def long_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for segments that nobody takes."""
    monkeypatch.setattr(shard, "QUEUE_SEGMENTS", 4 * SEGMENTS)


def start(directory: Path) -> ShardServer:
    (port,) = free_ports("127.0.0.1", 1)
    return ShardServer(CONFIG, SPEC, 0, "cached", port, directory)


def restored(directory: Path) -> int:
    """Number of segments that a shard restores from there."""
    server = start(directory)
    server.stop()
    return server.restored_segments


def write(server: ShardServer, first: int) -> None:
    """Writes some more segments."""
    write_steps(f"127.0.0.1:{server.port}", SHAPE, SEGMENTS * SHAPE.steps, start=first * SHAPE.steps)


def names(directory: Path) -> list[str]:
    """The contents of a shard's folder, except Reverb's own."""
    return sorted(path.name for path in directory.iterdir() if path.name not in ("reverb", "sampling"))


@pytest.fixture
def checkpoints(tmp_path: Path) -> list[Path]:
    """Two checkpoints in `tmp_path`, of 3 and 6 segments."""
    server = start(tmp_path)
    written = []
    for first in (0, SEGMENTS):
        write(server, first)
        written.append(server.checkpoint())
    server.stop()
    return written


def test_a_volume_without_hard_links_is_restored_from_copies(
    checkpoints: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> NoReturn:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "link", refuse)
    assert restored(tmp_path) == 2 * SEGMENTS
    assert names(tmp_path) == [path.name for path in checkpoints]


def test_checkpoints_take_no_memory(checkpoints: list[Path], tmp_path: Path) -> None:
    """Cached pages would count towards a container's limit. Neither written nor read ones stay."""
    kind = subprocess.run(["stat", "--file-system", "--format=%T", tmp_path], capture_output=True, text=True, check=True).stdout
    if kind.strip() in ("tmpfs", "ramfs"):
        pytest.skip("files of this file system are nowhere but in memory")
    assert [cached(path) for path in checkpoints] == [0, 0]
    assert restored(tmp_path) == 2 * SEGMENTS
    assert [cached(path) for path in checkpoints] == [0, 0]


def cached(folder: Path) -> int:
    """Bytes of a folder's files in the page cache."""
    command = ["fincore", "--bytes", "--noheadings", "--output", "RES", *map(str, folder.iterdir())]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sum(int(number) for number in told.split())


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
    assert restored(tmp_path) == 2 * SEGMENTS


def test_what_a_checkpoint_left_unfinished_makes_room_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reverb removes it only after it has written the next one, and on a full disk it never does."""

    def checkpoint() -> str:
        found.extend(server.checkpoints.reverb_folder.iterdir())
        return str(take())

    server = start(tmp_path)
    leave_unfinished(server)
    found: list[Path] = []
    take = server.client.checkpoint
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
    """Reverb reports success, and would load it as an empty table."""

    def checkpoint() -> str:
        allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, allowed[1]))
        try:
            return str(take())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, allowed)

    server = start(tmp_path)
    take = server.client.checkpoint
    monkeypatch.setattr(server.client, "checkpoint", checkpoint)
    with pytest.raises(ValueError, match="not whole"):
        server.checkpoint()
    monkeypatch.undo()
    assert list(server.checkpoints.reverb_folder.iterdir()) == []
    assert names(tmp_path) == [path.name for path in checkpoints]
    written = server.checkpoint()  # there is room again
    server.stop()
    assert names(tmp_path) == [*(path.name for path in checkpoints), written.name]
    assert restored(tmp_path) == 2 * SEGMENTS


def leave_unfinished(server: ShardServer) -> None:
    """Puts the remains of an abandoned Reverb checkpoint into its folder."""
    folder = server.checkpoints.reverb_folder / "2024-01-01T00:00:00+00:00"
    folder.mkdir()
    (folder / CHUNKS).write_bytes(b"half of")


def refuse_servers(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Makes Reverb refuse to start this many times."""
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
    assert restored(tmp_path) == SEGMENTS
    assert names(tmp_path) == [checkpoints[0].name, f"corrupt-{checkpoints[1].name}"]
    assert f"going on from the one before, {checkpoints[0].name}" in caplog.text


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
    assert restored(tmp_path) == 0
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
    assert before[len(files)] == f"{shard_checkpoints.MANIFEST}.partial"
    assert len(before) == len(files) + 2  # the folder, by the name that Reverb gave it
    assert after == [tmp_path.name]


def test_an_unchanged_shard_is_not_saved_again(tmp_path: Path) -> None:
    server = start(tmp_path)
    write(server, 0)
    first = server.checkpoint()
    assert server.checkpoint() == first
    shutil.rmtree(first)  # by somebody else
    assert server.checkpoint().is_dir()
    server.stop()
    assert restored(tmp_path) == SEGMENTS


def test_a_shard_goes_on_where_its_newest_checkpoint_was(tmp_path: Path) -> None:
    """Queue and log are restored: segments served after the checkpoint are served again, and the log can be read."""
    server = start(tmp_path)
    write(server, 0)
    assert len(taken_from_queue(server, 1)) == 1
    server.checkpoint()
    assert len(taken_from_queue(server, 2)) == 2
    server.stop()
    server = start(tmp_path)
    assert (server.restored_segments, server.log_capacity) == (SEGMENTS, math.ceil(1000 / SHAPE.steps))
    info = server.info()
    assert (info.inserted, info.served, info.log_segments, info.queue_segments) == (0, 0, SEGMENTS, SEGMENTS - 1)
    write(server, SEGMENTS)
    served = [segment_of(sample.data, SHAPE).first for sample in taken_from_queue(server, 2 * SEGMENTS - 1)]
    assert served == [k * SHAPE.steps for k in range(1, 2 * SEGMENTS)]
    found: list[int] = []

    def take(segment: Segment) -> bool:
        found.append(segment.first)
        return True

    assert LogFill(1, SHAPE, take).go_on(server.client, lambda: False)
    assert found == [k * SHAPE.steps for k in reversed(range(2 * SEGMENTS))]
    info = server.info()
    assert (info.inserted, info.served, info.log_segments, info.queue_segments) == (SEGMENTS, 5, 2 * SEGMENTS, 0)
    assert info.transitions == 2 * SEGMENTS * SHAPE.steps
    server.stop()


def taken_from_queue(server: ShardServer, count: int) -> list[Any]:
    """The next segments of the queue."""
    return list(server.client.sample(QUEUE, num_samples=count, emit_timesteps=False))


# Names and numbers, without Reverb


def written_by_reverb(checkpoints: ShardCheckpoints, name: str) -> Path:
    """Makes what Reverb writes: complete files in a folder named by the time."""
    folder = checkpoints.reverb_folder / name
    folder.mkdir()
    for record in ("tables.tfrecord", "items.tfrecord", CHUNKS):
        (folder / record).write_bytes(zlib.compress(name.encode()))
    (folder / "DONE").touch()
    return folder


def test_order_is_by_number_whatever_the_clock_says(tmp_path: Path) -> None:
    checkpoints = ShardCheckpoints(tmp_path)
    for name in ("2026-05-05T00:00:00", "2031-01-01T00:00:00", "1970-01-01T00:00:00"):
        checkpoints.adopt(written_by_reverb(checkpoints, name))
    again = ShardCheckpoints(tmp_path)
    assert [path.name for path in again.complete()] == [f"checkpoint-{k:012d}" for k in (1, 2, 3)]
    newest = again.complete()[-1]
    assert zlib.decompress((newest / CHUNKS).read_bytes()) == b"1970-01-01T00:00:00"


def test_a_number_is_never_given_again(tmp_path: Path) -> None:
    checkpoints = ShardCheckpoints(tmp_path)
    paths = [checkpoints.adopt(written_by_reverb(checkpoints, str(k))) for k in range(3)]
    checkpoints.set_aside(paths[2], ValueError("short"))
    fourth = checkpoints.adopt(written_by_reverb(checkpoints, "3"))
    assert names(tmp_path) == [*(path.name for path in paths[:2]), fourth.name, f"corrupt-{paths[2].name}"]
    assert fourth.name == f"checkpoint-{4:012d}"


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_the_newest_are_kept(tmp_path: Path, keep: int) -> None:
    checkpoints = ShardCheckpoints(tmp_path)
    paths = [checkpoints.adopt(written_by_reverb(checkpoints, str(k))) for k in range(12)]
    (tmp_path / f"checkpoint-{99:012d}").mkdir()  # a kill left it without a manifest
    checkpoints.prune(keep)
    assert checkpoints.complete() == paths[-keep:]


@pytest.mark.parametrize("damage", ["[]", "{}", '{"sha256": {}}', '{"sha256": {"DONE": "0"}}', "{", None])
def test_what_is_not_as_it_was_written_is_corrupt(tmp_path: Path, damage: str | None) -> None:
    checkpoints = ShardCheckpoints(tmp_path)
    path = checkpoints.adopt(written_by_reverb(checkpoints, "1"))
    shard_checkpoints.verify(path)
    if damage is None:
        (path / CHUNKS).unlink()
    else:
        (path / shard_checkpoints.MANIFEST).write_text(damage)
    with pytest.raises(ValueError, match=r"manifest\.json"):
        checkpoints.stage(path)
    assert list(checkpoints.reverb_folder.iterdir()) == []


def test_checkpoints_of_a_version_before_are_refused_in_a_sentence_and_left(tmp_path: Path) -> None:
    old = tmp_path / "2024-01-01T00:00:00.000+00:00"
    old.mkdir()
    (old / shard_checkpoints.MANIFEST).write_text("{}")
    with pytest.raises(RunError, match=r"^[^\n]* has checkpoints of an earlier version of SBRL, [^\n]*: start a new run"):
        start(tmp_path)
    assert names(tmp_path) == [old.name]
