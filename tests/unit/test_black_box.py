"""A process's counts survive its kill."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from sbrl.errors import RunError
from sbrl.storage.black_box import BlackBox, Record

COUNT = """
import itertools, sys
from pathlib import Path
from sbrl.storage.black_box import BlackBox
box = BlackBox(Path(sys.argv[1]))
for n in itertools.count(1):
    box.write(7, {"env_steps": n, "transitions_collected": 2 * n})
    print(n, flush=True)
"""


def found_in(path: Path) -> Record | None:
    with closing(BlackBox(path)) as box:
        return box.found


def write(path: Path, incarnation: int, *counts: int) -> None:
    with closing(BlackBox(path)) as box:
        for count in counts:
            box.write(incarnation, {"env_steps": count})


def test_kill_9_loses_no_count(tmp_path: Path) -> None:
    path = tmp_path / "counts" / "actor-0.bin"
    with subprocess.Popen([sys.executable, "-c", COUNT, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 500:
                process.kill()
                break
        said = int((process.stdout.read().split() or ["500"])[-1])
    found = found_in(path)
    assert found is not None
    assert found.incarnation == 7
    assert said <= found.counters["env_steps"] <= said + 1
    assert found.counters["transitions_collected"] == 2 * found.counters["env_steps"]


def test_the_newest_whole_record_is_found_and_gone_on_from(tmp_path: Path) -> None:
    path = tmp_path / "box.bin"
    assert found_in(path) is None
    write(path, 1, 1, 2, 3)
    assert found_in(path) == Record(1, {"env_steps": 3.0})
    write(path, 2, 1)
    assert found_in(path) == Record(2, {"env_steps": 1.0})


def test_a_box_that_a_live_process_holds_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "actor-0.bin"
    with subprocess.Popen([sys.executable, "-c", COUNT, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGSTOP)  # it is still alive
        with pytest.raises(RunError, match=r"another process, which is alive, counts in .*actor-0.bin.*another --name"):
            BlackBox(path)
        process.kill()


@pytest.mark.parametrize("at", [20, 30, 65_536 + 20, 65_536 + 30])
def test_a_record_that_was_cut_short_is_not_taken(tmp_path: Path, at: int) -> None:
    path = tmp_path / "box.bin"
    write(path, 1, 1, 2)
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)
    found = found_in(path)
    assert found is not None
    assert found.counters["env_steps"] in (1, 2)


@pytest.mark.parametrize("incarnation", [-5, 0, 2**64])
def test_a_record_of_no_incarnation_that_was_ever_given_is_not_taken(tmp_path: Path, incarnation: int) -> None:
    path = tmp_path / "box.bin"
    write(path, incarnation, 1)
    assert found_in(path) is None


@pytest.mark.parametrize("content", [b"", b"\xff" * 131_072, b"\x01" * 1000])
def test_what_is_no_black_box_holds_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "box.bin"
    path.write_bytes(content)
    assert found_in(path) is None


def test_a_run_directory_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with closing(BlackBox.of(blocked, "actor-0")) as box:
        box.write(3, {"env_steps": 9})
    with closing(BlackBox.of(blocked, "actor-0")) as box:
        assert box.found == Record(3, {"env_steps": 9.0})


def test_a_full_disk_is_told_of_when_the_box_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write to memory without disk space behind it would end the process without a message."""

    def fall_short(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("sbrl.storage.black_box.os.posix_fallocate", fall_short)
    with pytest.raises(RunError, match="No space left"):
        BlackBox.of(tmp_path, "actor-0")
