"""Files that roles write while they are copied into a backup: each copy is complete and from one moment."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from sbrl.backup import copies
from sbrl.backup.catalog import open_store
from sbrl.errors import RunError
from sbrl.storage.black_box import BlackBox
from sbrl.storage.run_directory import RunDirectory
from tests.backups import back_up, bring_back, make_run


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "run")


WRITER = """
import os, sqlite3, sys
from pathlib import Path
from services.coordinator.store import Store

store = Store(Path(sys.argv[1]))
for number in range(1, 10**9):
    with store._transaction() as execute:
        execute("INSERT OR REPLACE INTO numbers VALUES ('one', ?)", (number,))
        execute("INSERT OR REPLACE INTO texts VALUES ('filler-' || ?, ?)", (number % 500, "x" * 20_000))
        execute("INSERT OR REPLACE INTO numbers VALUES ('two', ?)", (number,))
    if number == 600:
        print("writing", flush=True)
"""


@contextmanager
def writer(database: Path) -> Iterator[None]:
    """A coordinator's store in a separate process that writes to it continuously."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(database)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"writing\n"
            yield
        finally:
            process.kill()


def test_a_database_that_is_written_to_is_copied_as_of_one_moment(tmp_path: Path) -> None:
    """About ten megabytes. Each transaction changes the first and the last rows in the same way."""
    source, target, seen = tmp_path / "state.sqlite", tmp_path / "copy", list[int]()
    deadline = time.monotonic() + 90
    with writer(source):
        while len(seen) < 4 or seen[-1] == seen[0]:
            assert time.monotonic() < deadline, seen
            if copies.copy_database(source, target):
                with closing(sqlite3.connect(target)) as connection:
                    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                    one, two = (value for (value,) in connection.execute("SELECT value FROM numbers ORDER BY name"))
                assert one == two
                seen.append(one)
            target.unlink()
            target.with_name(f"{target.name}-wal").unlink(missing_ok=True)
    assert seen == sorted(seen)


COUNTING = """
import itertools, sys
from pathlib import Path
from sbrl.storage.black_box import BlackBox
box = BlackBox(Path(sys.argv[1]))
for n in itertools.count(1):
    box.write(7, {f"counter_{i}": n for i in range(500)})
    if n == 10:
        print("counting", flush=True)
"""


def test_what_an_actor_counts_without_a_pause_comes_back_whole(run: RunDirectory, tmp_path: Path) -> None:
    counts = run.path / "counts/actor-0.bin"
    counts.unlink()
    seen = []
    with subprocess.Popen([sys.executable, "-c", COUNTING, str(counts)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"counting\n"
            for number in range(10):
                back_up(run, tmp_path / "to", "--keep", "100", "--name", f"b-{number}")
        finally:
            process.kill()
    for number in range(10):
        bring_back(tmp_path / f"to/b-{number}", tmp_path / f"back-{number}")
        with closing(BlackBox(tmp_path / f"back-{number}/counts/actor-0.bin")) as box:
            assert box.found is not None
            assert len(set(box.found.counters.values())) == 1
            seen.append(box.found.counters["counter_0"])
    assert seen == sorted(seen)
    assert seen[0] < seen[-1]


def test_a_file_that_changes_while_it_is_copied_is_no_backup(run: RunDirectory, tmp_path: Path) -> None:
    """No file should change, but if one did, this must show in the backup, not only in a restore."""
    store = open_store(str(tmp_path / "to"))
    with (
        run.config.open("rb") as file,
        pytest.raises(RunError, match=r"run\.yaml changed while it was copied: try again"),
    ):
        store.write("a/run/run.yaml", file, run.config.stat().st_size, hashlib.sha256(b"before").hexdigest())
    assert not (tmp_path / "to/a/run/run.yaml").exists()


def test_a_log_that_began_anew_meanwhile_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "state.sqlite"
    source.write_bytes(b"")
    log = source.with_name("state.sqlite-wal")
    log.write_bytes(b"a" * 32)
    copy = shutil.copyfile

    def begin_anew(path: Path, target: Path) -> None:
        copy(path, target)
        if path == source:
            log.write_bytes(b"b" * 32)

    monkeypatch.setattr(shutil, "copyfile", begin_anew)
    assert not copies.copy_database(source, tmp_path / "copy")


def test_a_damaged_database_is_no_backup(run: RunDirectory, tmp_path: Path) -> None:
    database = run.coordinator / "state.sqlite"
    data = bytearray(database.read_bytes())
    data[4096:8192] = b"\xff" * 4096
    database.write_bytes(data)
    with pytest.raises(RunError, match=r"state\.sqlite is damaged"):
        back_up(run, tmp_path / "to")
    assert not list((tmp_path / "to").iterdir())


def test_a_database_that_always_changes_is_given_up(run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "copy_database", lambda source, target: False)
    with pytest.raises(RunError, match="changed each time while it was copied"):
        back_up(run, tmp_path / "to")
