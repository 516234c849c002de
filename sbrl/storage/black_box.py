"""A process's counters in a file that outlives it, even after kill -9: the file is mapped memory of the kernel."""

from __future__ import annotations

import fcntl
import json
import logging
import math
import mmap
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

from sbrl.errors import RunError

_MAX_BYTES = 65_536
_TRIES = 20  # attempts to read a record between two writes
_ENDING_SECONDS = 2.0  # after that a killed process is gone for good
_SLOT = struct.Struct("<QII")  # number of the record, its length, its CRC-32

_log = logging.getLogger(__name__)


class Record(NamedTuple):
    """A process's counters under one lease."""

    incarnation: int
    counters: Mapping[str, float]


class BlackBox:
    """Two slots that are written in turn: a kill during one write leaves the other slot complete."""

    def __init__(self, path: Path) -> None:
        """Makes the file if necessary, and locks it as long as this process lives.

        Raises:
            OSError: it cannot be written.
            RunError: another living process holds it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _hold(self._descriptor, path)
            # Reserve space on the disk: writing to mapped memory without space behind it would kill the process.
            os.posix_fallocate(self._descriptor, 0, 2 * _MAX_BYTES)
            self._memory = mmap.mmap(self._descriptor, 2 * _MAX_BYTES)
        except BaseException:
            os.close(self._descriptor)
            raise
        found = _read_slots(self._memory)
        self.found = found[-1][1] if found else None  # of the previous process
        self._number = found[-1][0] if found else 0

    @classmethod
    def of(cls, run_directory: Path, name: str) -> Self:
        """The black box of the process called `name`, in the run directory.

        If the run directory cannot be written, it is in the temporary folder. A pod's temporary folder outlives its containers.

        Raises:
            RunError: neither folder can be written.
        """
        for folder in (run_directory / "counts", Path(tempfile.gettempdir()) / "sbrl-counts"):
            try:
                return cls(folder / f"{name.replace('/', '_')}.bin")
            except OSError as error:
                _log.debug("no black box in %s: %s", folder, error)
                reason = error.strerror
        raise RunError(f"cannot write what {name} counts to {folder}: {reason}; set TMPDIR to a folder that can be written")

    def write(self, incarnation: int, counters: Mapping[str, float]) -> None:
        """Records the counters so far. Takes some microseconds."""
        data = json.dumps([incarnation, dict(counters)]).encode()
        assert len(data) <= _MAX_BYTES - _SLOT.size
        self._number += 1
        start = (self._number % 2) * _MAX_BYTES
        # Write the data first: a kill in between leaves a slot whose checksum does not match.
        self._memory[start + _SLOT.size : start + _SLOT.size + len(data)] = data
        self._memory[start : start + _SLOT.size] = _header(self._number, data)

    def close(self) -> None:
        self._memory.close()
        os.close(self._descriptor)


def snapshot(path: Path) -> bytes:
    """The file's content, with a complete record if there is one, while a process may be writing. Raises OSError."""
    for _ in range(_TRIES):
        data = path.read_bytes()
        if _read_slots(data):
            break  # else one slot was being overwritten, and the other changed during the read; or there is none yet
    return data


def _read_slots(memory: bytes | mmap.mmap) -> list[tuple[int, Record]]:
    """The complete records with their numbers, oldest first."""
    found = []
    for start in (0, _MAX_BYTES):
        if len(memory) < start + _SLOT.size:
            break
        number, length, checksum = _SLOT.unpack_from(memory, start)
        data = memory[start + _SLOT.size : start + min(_MAX_BYTES, _SLOT.size + length)]
        if not number or zlib.crc32(data) != checksum:
            continue
        try:
            incarnation, counters = json.loads(data)
            record = Record(int(incarnation), {name: float(value) for name, value in counters.items()})
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            continue  # not our data, although its checksum is right
        if 0 < record.incarnation < 2**64 and all(map(math.isfinite, record.counters.values())):
            found.append((number, record))
    return sorted(found, key=lambda one: one[0])


def _hold(descriptor: int, path: Path) -> None:
    """Locks the file. The kernel unlocks it when its holder ends, however it ends. Waits for a holder that is ending."""
    deadline = time.monotonic() + _ENDING_SECONDS
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise RunError(
                    f"another process, which is alive, counts in {path} under this one's name: stop it, or give this one "
                    f"another --name"
                ) from None
            time.sleep(_ENDING_SECONDS / 20)


def pack(number: int, data: bytes) -> bytes:
    """A slot's bytes for the record with this number."""
    return _header(number, data) + data


def _header(number: int, data: bytes) -> bytes:
    return _SLOT.pack(number, len(data), zlib.crc32(data))
