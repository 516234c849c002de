"""Holding still until the shards' limiters admit what the books say is due."""

from __future__ import annotations

import logging
import threading
import time

from sbrl.config import Config
from sbrl.fleet_member import FleetMember
from sbrl.fleet_watch import FleetWatch
from sbrl.metrics import LearnerMetrics
from sbrl.ratio_books import limiters_astray
from sbrl.rpc import CoordinatorUnavailable

logger = logging.getLogger(__name__)

CORRECTION_SECONDS = 120.0  # for the shards to set their limiters; a large one writes a checkpoint for it and reads it again
LOOK_SECONDS = 0.5


def least_correction(config: Config) -> float:
    """Samples by which limiters may be off and count as settled: less than a batch of each shard."""
    return config.replay.num_shards * config.learner.batch_size / 2


def settle(
    config: Config, member: FleetMember, watch: FleetWatch, metrics: LearnerMetrics, stop: threading.Event, least: float
) -> None:
    """Holds still until the limiters are corrected, if they are off by more than `least` samples; `stop` ends the wait.

    They are after a learner was killed: what it had trained on and not saved is due again, and was served already. A shard
    starts again to be corrected, and is waited for; one that was gone before is not, for nobody knows when it comes back, and
    its limiter is set as it does.
    """
    start = time.monotonic()
    try:
        member.beat_now()
        off, known = limiters_astray(watch.ask())
        if off <= least:
            return
        logger.info("the limiters are off by %.0f samples: waiting until they are corrected", off)
        metrics.settling.set(1)
        most = known
        while off > least_correction(config) or known < most:
            if time.monotonic() - start > CORRECTION_SECONDS:
                logger.warning("the limiters are still off by %.0f samples: going on", off)
                break
            if stop.wait(LOOK_SECONDS):
                break
            member.beat_now()
            off, known = limiters_astray(watch.ask())
            most = max(most, known)
    except CoordinatorUnavailable as error:
        logger.warning("the limiters are not corrected: %s", error)
    finally:
        metrics.settling.set(0)
