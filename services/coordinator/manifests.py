"""The manifests of generations: which checkpoint of each role belongs to it, and what the run's counts were; atomic files."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sbrl.durable import write_durably
from services.coordinator.books import Segment
from services.coordinator.store import Moment

FORMAT = 1
_NAME = re.compile(r"generation-(\d{10})\.json")

_log = logging.getLogger(__name__)


class CorruptManifestError(ValueError):
    """A manifest that was changed, cut short or written by something else."""


class CheckpointRecord(NamedTuple):
    """One role's checkpoint, as it reported it."""

    role: str
    position: int  # the index within its role
    checkpoint: str  # its name on the member's disk
    size_bytes: int
    sha256: str  # of the checkpoint's own manifest


class Manifest(NamedTuple):
    """A committed generation."""

    generation: int
    time: float  # Unix seconds
    checkpoints: tuple[CheckpointRecord, ...]
    moment: Moment

    def checkpoint(self, role: str, position: int) -> CheckpointRecord | None:
        """A role's checkpoint; None if there is none."""
        return next((one for one in self.checkpoints if (one.role, one.position) == (role, position)), None)


class ManifestStore:
    """The manifests in one directory: generation-<number>.json, each with its own checksum."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def commit(self, manifest: Manifest, keep: int) -> None:
        """Writes a manifest, all or nothing, then forgets all but the newest `keep`."""
        self._directory.mkdir(parents=True, exist_ok=True)
        write_durably(self._path(manifest.generation), encode(manifest))
        for old in self._numbers()[:-keep]:
            self._path(old).unlink(missing_ok=True)

    def manifests(self) -> list[Manifest]:
        """Those that can be read, oldest first, with a warning for each that cannot."""
        found = []
        for generation in self._numbers():
            try:
                manifest = decode(self._path(generation).read_bytes())
                if manifest.generation != generation:
                    raise CorruptManifestError(f"it is of generation {manifest.generation}")
            except (OSError, CorruptManifestError) as error:
                _log.warning("the manifest of generation %d cannot be used: %s", generation, error)
            else:
                found.append(manifest)
        return found

    def forget_after(self, generation: int) -> None:
        """Deletes the manifests of later generations: the run goes back behind them."""
        for later in self._numbers():
            if later > generation:
                self._path(later).unlink(missing_ok=True)

    def _numbers(self) -> list[int]:
        if not self._directory.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in self._directory.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def _path(self, generation: int) -> Path:
        return self._directory / f"generation-{generation:010d}.json"


def encode(manifest: Manifest) -> bytes:
    """A manifest as JSON with a checksum of its content."""
    moment = manifest.moment
    content = {
        "format": FORMAT,
        "generation": manifest.generation,
        "time": manifest.time,
        "checkpoints": [record._asdict() for record in manifest.checkpoints],
        "counters": {f"{role}.{name}": value for (role, name), value in sorted(moment.counters.items())},
        "segments": [list(segment) for segment in moment.segments],
        "episodes_row": moment.episodes_row,
        "evaluations_row": moment.evaluations_row,
    }
    return signed(content)


def signed(content: Any) -> bytes:
    """The content of a manifest with its checksum."""
    return json.dumps({"sha256": _digest(content), "content": content}, indent=2).encode()


def decode(data: bytes) -> Manifest:
    """Reads what `encode` wrote.

    Raises:
        CorruptManifestError: the bytes are anything else.
    """
    try:
        document = json.loads(data)
        content = document["content"]
        if document["sha256"] != _digest(content):
            raise CorruptManifestError("its checksum differs: it was changed or cut short")
        if content["format"] != FORMAT:
            raise CorruptManifestError(f"it has format {content['format']!r}, this version of sbrl reads {FORMAT}")
        return Manifest(
            generation=_whole(content["generation"]),
            time=_finite(content["time"]),
            checkpoints=tuple(
                CheckpointRecord(
                    str(one["role"]),
                    _whole(one["position"]),
                    str(one["checkpoint"]),
                    _whole(one["size_bytes"]),
                    str(one["sha256"]),
                )
                for one in content["checkpoints"]
            ),
            moment=Moment(
                _counters(content["counters"]),
                _segments(content["segments"]),
                _whole(content["episodes_row"]),
                _whole(content["evaluations_row"]),
            ),
        )
    except CorruptManifestError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise CorruptManifestError(f"it is no manifest: {type(error).__name__}: {error}") from None


def _counters(values: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    pairs = ((name.partition("."), value) for name, value in values.items())
    return {(role, counter): _count(value) for (role, _, counter), value in pairs}


def _segments(rows: Iterable[Any]) -> list[Segment]:
    segments = [Segment(_whole(shard), _whole(start), _finite(ratio)) for shard, start, ratio in rows]
    if len({(one.shard, one.start) for one in segments}) < len(segments):
        raise CorruptManifestError("two of its segments begin at the same place")
    return segments


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise CorruptManifestError(f"{value!r} stands where a whole number does")
    return value


def _count(value: Any) -> float:
    if not 0 <= _finite(value) < 2**63:
        raise CorruptManifestError(f"{value!r} stands where a count does")
    return float(value)


def _finite(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise CorruptManifestError(f"{value!r} stands where a number does")
    return float(value)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
