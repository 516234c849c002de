"""Decides when a run has nothing more to receive."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from learner.intake import Intake
from sbrl.coordination.fleet_watch import FleetWatch, all_collected
from sbrl.replay.segment_reader import SegmentReader

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
DRAINED_SECONDS = 2.0  # a queue must have been empty for this long: segments it has just served may be on their way
# How long to wait for a shard that is away, once everything is collected. Pods of large shards take minutes to come back.
LOST_SHARD_SECONDS = 1800.0


class RunEnd:
    """Reached once all steps are collected, all actors are gone, and every shard's queue was empty after that."""

    def __init__(self, watch: FleetWatch, readers: Sequence[SegmentReader], intake: Intake) -> None:
        self._watch, self._readers, self._intake = watch, readers, intake
        self._next_look = 0.0
        self._collected_time: float | None = None
        self._is_reached = False

    def is_reached(self, now: float) -> bool:
        """Args: now: of the monotonic clock, seconds. Checks the fleet at most twice a second."""
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            self._is_reached = self._look(now)
        return self._is_reached

    def _look(self, now: float) -> bool:
        if not all_collected(self._watch.status):
            self._collected_time = None
            return False
        if self._collected_time is None:
            self._collected_time = now
        since = now - self._collected_time
        missing = [reader for reader in self._readers if min(since, reader.drained_seconds()) < DRAINED_SECONDS]
        if not missing:
            return self._intake.is_empty
        if any(reader.is_up for reader in missing) or now - self._collected_time < LOST_SHARD_SECONDS:
            return False
        logger.warning("replay shards %s are away: what they have is missing", [reader.shard for reader in missing])
        return True
