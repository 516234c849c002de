"""What copies and snapshots of a run share: names of backups and of parts, and how long the coordinator listens."""

from __future__ import annotations

import argparse
import re
from datetime import UTC, datetime

PART = re.compile(r"run|learner|coordinator|replay-\d+")
NAME = re.compile(r"[A-Za-z0-9][-_.A-Za-z0-9]{0,62}")
KEEP = 7  # backups of a run
# Some heartbeats: time for the coordinator to hear of everything that shards held and actors had counted when they were copied.
# Otherwise a run that continues from the backup would hear of those steps after it has given them to others. The coordinator's
# database has the time of each heartbeat, but it is locked: checking it would mean copying all of it again and again.
HEARD_SECONDS = 5.0


def part_of(text: str) -> str:
    """A part's name. Raises argparse.ArgumentTypeError for anything else."""
    if not PART.fullmatch(text) or text == "run":
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is none of learner, coordinator, replay-0, replay-1, ...")
    return text


def name_of_job(job: str, now: float) -> str:
    """The name that all parts of one backup share. Names of a CronJob's Jobs end with their scheduled minute.

    Args:
        job: the Job's name, "" for none. For a Job made by hand, the end of its name is the backup's name.
        now: Unix seconds.
    """
    ending = job.rpartition("-")[2]
    minutes = re.fullmatch(r"\d{8}", ending)
    if job and not minutes:
        return ending
    return f"{datetime.fromtimestamp(int(ending) * 60 if minutes else now, UTC):%Y%m%d-%H%M%S}"
