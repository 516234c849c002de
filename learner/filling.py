"""Fills the replay memory from the shards' logs when a learner starts. Training runs meanwhile."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from learner.intake import Intake
from sbrl.replay.segment_reader import SegmentReader

logger = logging.getLogger(__name__)

ENOUGH = 0.1  # share of each log that must be in the memory before training resumes
ABSENT_SECONDS = 5.0  # training does not wait for a shard that has not answered within this time


class Filling:
    """Tracks how much of the logs has been read."""

    def __init__(self, readers: Sequence[SegmentReader], intake: Intake, enough: float = ENOUGH) -> None:
        """Args: enough: the share of each log that training waits for."""
        self._readers, self._intake, self._enough = readers, intake, enough
        self._start = time.monotonic()
        self.is_enough = False  # training may resume: that share of every log that could be read is in the memory
        self.is_over = False

    def update_progress(self, now: float) -> None:
        """Brings `is_enough` and `is_over` up to date. Args: now: of the monotonic clock, seconds."""
        if self.is_over:
            return
        waited = now - self._start > ABSENT_SECONDS
        counted = [reader for reader in self._readers if reader.is_up or not waited]
        self.is_enough = self.is_enough or all(reader.log_share_read >= self._enough for reader in counted)
        # Before has_logged: once a log is read, all its segments are in the intake.
        read = [reader for reader in self._readers if reader.log_share_read >= 1.0]
        if self._intake.has_logged:
            return
        for reader in read:
            self._intake.log_is_read(reader.shard)
        self.is_over = len(read) == len(self._readers)
        if self.is_over and self._intake.filled:
            seconds = now - self._start
            logger.info("memory filled from the shards' logs: %d transitions in %.1f s", self._intake.filled, seconds)
