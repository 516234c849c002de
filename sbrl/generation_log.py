"""What a role with checkpoints remembers of generations: the course of events it is in, and what it saved for which."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

from sbrl.errors import RunError
from sbrl.run_directory import replace_text

_FILE = "generations.json"

_log = logging.getLogger(__name__)


class GenerationLog:
    """The file generations.json in a role's folder of checkpoints."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _FILE
        self.timeline = 0  # that this role has begun or gone on in
        self._checkpoints: dict[int, str] = {}  # by generation
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            timeline = _whole(content["timeline"])
            self._checkpoints = {_whole(int(key)): str(name) for key, name in content["checkpoints"].items()}
            self.timeline = timeline
        except FileNotFoundError:
            pass  # a new run
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            _log.warning("%s cannot be read (%s): taken for empty", self._path, error)

    def begin(self, timeline: int) -> None:
        """Notes that this role has gone back to where a timeline begins. Raises RunError: the file system refuses."""
        self.timeline = timeline
        self._write()

    def record(self, generation: int, name: str) -> None:
        """Notes which checkpoint was saved for a generation. Raises RunError: the file system refuses."""
        self._checkpoints[generation] = name
        self._write()

    def keep_only(self, generations: Collection[int]) -> set[str]:
        """Forgets all but these generations; returns the names of checkpoints that they need."""
        self._checkpoints = {generation: name for generation, name in self._checkpoints.items() if generation in generations}
        return self.checkpoints

    @property
    def checkpoints(self) -> set[str]:
        """The names of checkpoints that generations need."""
        return set(self._checkpoints.values())

    def _write(self) -> None:
        content = {"timeline": self.timeline, "checkpoints": {str(key): name for key, name in self._checkpoints.items()}}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot write {self._path}: {error.strerror}") from None
        replace_text(self._path, json.dumps(content, indent=2))


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{value!r} stands where a whole number does")
    return value
