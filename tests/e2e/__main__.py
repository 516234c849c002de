"""The chart's pods for real, as podman containers: `make e2e` builds the images and runs this.

It renders the chart with helm/laptop.yaml and shows, step by step, that the release trains Pong at its ratio, scales its
actors, survives the loss of a shard and of its learner, continues while a shard is away, refuses strangers, can be drained, and
starts again from a backup. Every wait is bounded. If a step fails, the exit code is 1, a line says what was not seen, and the
pods' logs are kept. `--only drain backup` runs these two steps after the install.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.chart.helm import ROOT
from tests.e2e.cluster import Failed
from tests.e2e.release import Release
from tests.e2e.steps import STEPS

# Short intervals, so that a pod's state is soon on its disk: waiting ten minutes for the shard's would take too long.
# Two shards, so that one can be away, and backups to a claim.
SETTINGS = (
    "run.run.checkpoint_interval_seconds=20",
    "run.replay.checkpoint_interval_seconds=20",
    "run.replay.num_shards=2",
    "backup.enabled=true",
    "backup.to.claim=backups",
)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.e2e", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--values", type=Path, default=ROOT / "helm/laptop.yaml", help="the overlay to render with (default: helm/laptop.yaml)"
    )
    parser.add_argument("--logs", type=Path, help="a folder for all pods' logs (default: a new one, if a step fails)")
    parser.add_argument(
        "--only", nargs="+", default=(), choices=[name for name, _, _ in STEPS], metavar="STEP", help="these, after the install"
    )
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("e2e: this runs as root, for containers' addresses and volumes with other owners: sudo make e2e", file=sys.stderr)
        return 1
    # Raises an exception, so that everything started is stopped.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="sbrl-e2e-") as directory:
        try:
            release = Release.rendered(arguments.values.resolve(), SETTINGS, Path(directory), "first")
        except Failed as error:
            print(f"e2e: {error}", file=sys.stderr)
            return 1
        release.take_token()
        words = " ".join(f"--set {setting}" for setting in SETTINGS)
        print(f"helm template sbrl deploy --values {arguments.values} {words}", flush=True)
        try:
            failed = run(release, arguments.only)
            if failed or arguments.logs:
                folder = arguments.logs or Path(tempfile.mkdtemp(prefix="sbrl-e2e-logs-"))
                release.keep_logs(folder)
                print(f"e2e: the pods' logs are in {folder}", file=sys.stderr)
        finally:
            release.close()
            release.cluster.close()
    return int(failed)


def run(release: Release, only: Sequence[str]) -> bool:
    """Runs all steps, or the first and the named ones; returns whether one failed, which skips the rest."""
    begin, chosen = time.monotonic(), [step for step in STEPS if not only or step[0] in ("install", *only)]
    for number, (_, title, step) in enumerate(chosen, 1):
        start = time.monotonic()
        try:
            seen = step(release)
        except Failed as error:
            print(f"{number:2}. FAILED  {title}: {error}", flush=True)
            return True
        print(f"{number:2}. ok {time.monotonic() - start:5.0f} s  {title}: {seen}", flush=True)
    print(f"all {len(chosen)} steps in {time.monotonic() - begin:.0f} s")
    return False


if __name__ == "__main__":
    sys.exit(main())
