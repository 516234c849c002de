"""A role's part in generations: which checkpoint it saved for the one in the making, reported until the coordinator has it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import NamedTuple

from sbrl.errors import RunError
from sbrl.fleet import Instructions
from sbrl.fleet_member import FleetMember
from sbrl.generation_log import GenerationLog

# Between two attempts: longer than the time until the next beat says whether the coordinator still wants a report.
RETRY_SECONDS = 5.0

_log = logging.getLogger(__name__)


class _Report(NamedTuple):
    generation: int
    checkpoint: str
    size_bytes: int
    sha256: str
    counters: Mapping[str, float]


class CheckpointReports:
    """What this process has saved and reported. Not thread-safe."""

    def __init__(self, member: FleetMember, log: GenerationLog) -> None:
        self._member, self._log = member, log
        self._newest: _Report | None = None
        self._tried_generation, self._tried_time = 0, -math.inf

    def is_due(self, instructions: Instructions) -> bool:
        """Whether the coordinator waits for this role's checkpoint, and it is time for an attempt."""
        return instructions.checkpoint_wanted and (
            instructions.generation > self._tried_generation or time.monotonic() - self._tried_time >= RETRY_SECONDS
        )

    def repeat(self, instructions: Instructions) -> bool:
        """Notes an attempt, and reports again what was saved for the generation already; False: nothing was."""
        self._tried_generation, self._tried_time = instructions.generation, time.monotonic()
        if self._newest is None or self._newest.generation != instructions.generation:
            return False
        self._send(self._newest)
        return True

    def needed(self, instructions: Instructions) -> set[str]:
        """Forgets generations that are neither kept nor in the making; returns the checkpoints' names that the others need."""
        if not self._member.has_joined:
            return self._log.checkpoints  # nobody has said yet which are kept
        return self._log.keep_only({*instructions.kept_generations, instructions.generation})

    def report(self, generation: int, checkpoint: str, size_bytes: int, sha256: str, counters: Mapping[str, float]) -> None:
        """Notes a checkpoint on disk as the one of a generation, and reports it; a report that fails is due again.

        A generation has one checkpoint of a process: another one, later, is not noted, for the first may be committed by now.

        Args: as of `FleetMember.report_checkpoint`.

        Raises:
            RunError: the note cannot be written.
        """
        if self._newest is not None and self._newest.generation == generation:
            return
        self._log.record(generation, checkpoint)
        self._newest = _Report(generation, checkpoint, size_bytes, sha256, counters)
        self._send(self._newest)

    def _send(self, report: _Report) -> None:
        try:
            self._member.report_checkpoint(*report)
        except RunError as error:
            _log.warning("checkpoint %s of generation %d is not reported: %s", report.checkpoint, report.generation, error)
