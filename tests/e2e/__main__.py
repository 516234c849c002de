"""The chart's pods for real, as podman containers: `make e2e` builds the images and runs this.

It renders the chart with helm/laptop.yaml and shows, step by step, that the release trains Pong at its ratio, scales its
actors, survives the loss of a shard and of its learner, and refuses strangers. Every wait is bounded. Exit code 1 and a line
that says what was not seen, if something was not; then the pods' logs are kept.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from sbrl.rpc.credentials import TOKEN_FILE
from tests.chart.helm import ROOT, by_name, helm
from tests.e2e.cluster import Cluster, Failed
from tests.e2e.release import Release
from tests.e2e.steps import STEPS

# So that what is lost with a killed pod is soon on its disk: nobody wants to wait ten minutes for the shard's.
SETTINGS = ("run.run.checkpoint_interval_seconds=20", "run.replay.checkpoint_interval_seconds=20")
NAMESPACE = "rl"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.e2e", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--values", type=Path, default=ROOT / "helm/laptop.yaml", help="the overlay to render with (default: helm/laptop.yaml)"
    )
    parser.add_argument("--logs", type=Path, help="a folder for all pods' logs (default: a new one, if a step fails)")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("e2e: this runs as root, for containers' addresses and volumes with other owners: sudo make e2e", file=sys.stderr)
        return 1
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    rendered = helm(
        *("template", "sbrl", str(ROOT / "deploy"), "--namespace", NAMESPACE, "--values", str(arguments.values)), *settings
    )
    if rendered.returncode:
        print(f"e2e: the chart does not render: {rendered.stderr}", file=sys.stderr)
        return 1
    objects = by_name(rendered.stdout)
    # As an exception, so that what was started is stopped.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="sbrl-e2e-") as directory:
        token = Path(directory) / "token"
        token.write_bytes(base64.b64decode(objects["Secret", "sbrl-token"]["data"]["token"]))
        os.environ[TOKEN_FILE] = str(token)  # this process asks the coordinator, as `sbrl status` does
        cluster = Cluster(objects, f"sbrl-e2e-{os.getpid()}", Path(directory))
        try:
            with contextlib.closing(Release(objects, cluster, Path(directory))) as release:
                print(
                    f"helm template sbrl deploy --values {arguments.values.relative_to(ROOT)} {' '.join(settings)}", flush=True
                )
                failed = run(release)
                if failed or arguments.logs:
                    folder = arguments.logs or Path(tempfile.mkdtemp(prefix="sbrl-e2e-logs-"))
                    release.keep_logs(folder)
                    print(f"e2e: the pods' logs are in {folder}", file=sys.stderr)
        finally:
            cluster.close()
    return int(failed)


def run(release: Release) -> bool:
    """Runs all steps; returns whether one failed (the others are then left out)."""
    begin = time.monotonic()
    for number, (title, step) in enumerate(STEPS, 1):
        start = time.monotonic()
        try:
            seen = step(release)
        except Failed as error:
            print(f"{number:2}. FAILED  {title}: {error}", flush=True)
            return True
        print(f"{number:2}. ok {time.monotonic() - start:5.0f} s  {title}: {seen}", flush=True)
    print(f"all {len(STEPS)} steps in {time.monotonic() - begin:.0f} s")
    return False


if __name__ == "__main__":
    sys.exit(main())
