"""The newest network weights, in memory for clients that fetch them, and the last two versions on disk."""

from __future__ import annotations

import logging
import threading
import time
import zlib
from pathlib import Path
from typing import NamedTuple

import safetensors

from sbrl.storage.atomic import write_durably
from services.coordinator.refusal import invalid, stale
from services.coordinator.store import MAX_INTEGER, Store, WeightsRecord

_PATTERN = "weights-*.safetensors*"

_log = logging.getLogger(__name__)


class StoredWeights(NamedTuple):
    """One version with its bytes."""

    record: WeightsRecord
    data: bytes  # safetensors
    published: float  # seconds of this process's monotonic clock

    @property
    def age_seconds(self) -> float:
        """Seconds since the publication. After a restart, the part before it is measured by the time of day."""
        return time.monotonic() - self.published


class WeightsStore:
    """Files weights-<version>.safetensors in one directory. A version exists once the store has committed its record."""

    def __init__(self, directory: Path, store: Store) -> None:
        """Loads the newest intact version, and warns if newer ones are damaged."""
        self._directory = directory
        self._store = store
        self._publishing = threading.Lock()
        self._newest = self._read_newest()
        self._remove_others({record.version for record in store.weights()})

    @property
    def newest(self) -> StoredWeights | None:
        """The version to serve, or None if nothing usable is published."""
        return self._newest

    def publish(self, data: bytes, term: int, updates: int, crc32: int) -> WeightsRecord:
        """Makes the bytes the newest version. They are durable when this returns.

        Raises:
            Refused: the term is stale, the checksum differs, or the bytes are not safetensors. Nothing is changed then.
        """
        if zlib.crc32(data) != crc32:
            raise invalid("the weights' checksum differs from the header's: they were damaged on the way, send them again")
        try:
            safetensors.deserialize(data)
        except safetensors.SafetensorError as error:
            raise invalid(f"the weights are no safetensors: {error}") from None
        if updates > MAX_INTEGER:
            raise invalid(f"updates is {updates}, above {MAX_INTEGER}")
        with self._publishing:
            if term != self._store.number("term"):
                raise stale(term)
            known = self._store.weights()  # an unreadable newest version counts too: version numbers never go back
            version = known[0].version + 1 if known else 1
            record = WeightsRecord(version, term, updates, len(data), crc32, time.time())
            path = self._path(version)
            write_durably(path, data)
            previous = self._newest.record.version if self._newest else 0
            if not self._store.add_weights(record, previous):  # a newer learner took over while the file was written
                path.unlink()
                raise stale(term)
            self._newest = StoredWeights(record, data, time.monotonic())
            self._remove_others({version, previous})
        return record

    def _path(self, version: int) -> Path:
        return self._directory / f"weights-{version:010d}.safetensors"

    def _read_newest(self) -> StoredWeights | None:
        for record in self._store.weights():
            path = self._path(record.version)
            try:
                data = path.read_bytes()
            except OSError as error:
                _log.warning("weights version %d cannot be read (%s): falling back to the one before", record.version, error)
                continue
            if len(data) == record.size_bytes and zlib.crc32(data) == record.crc32:
                return StoredWeights(record, data, time.monotonic() - max(0.0, time.time() - record.published_time))
            _log.warning("weights version %d in %s is damaged: falling back to the one before", record.version, path)
        return None

    def _remove_others(self, kept: set[int]) -> None:
        """Removes all other files: older versions, and files that a kill left half-written."""
        paths = {self._path(version) for version in kept}
        for path in self._directory.glob(_PATTERN):
            if path not in paths:
                path.unlink(missing_ok=True)
