"""A run's results as a tar archive on standard output: summary, episodes, evaluations, learning curve.

kubectl exec sbrl-coordinator-0 -- python /etc/sbrl/tools/results.py | tar -x
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sbrl.config import load
from sbrl.coordination.episode_log import LogClient
from sbrl.coordination.fleet import FleetClient, RunState
from sbrl.coordination.fleet_watch import run_state
from sbrl.monitor.learning_curve import write_learning_curve
from sbrl.monitor.run_status import config_of
from sbrl.monitor.summary import summarize, write_summary
from sbrl.rpc.channels import reachable_address
from sbrl.runtime.program import run_program
from sbrl.storage.run_directory import RunDirectory
from sbrl.storage.tables import write_episodes, write_evaluations


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", type=Path, default=Path("/etc/sbrl/config/run.yaml"), metavar="FILE", help="the run's config"
    )
    config = load(parser.parse_args(argv).config)
    # This pod's coordinator, by the address that it uses for itself: no policy lets a pod reach itself through its Service.
    network = config.network
    address = reachable_address(network.bind_host, int(network.coordinator_address.rpartition(":")[2]))
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(FleetClient(address)) as fleet,
        contextlib.closing(LogClient(address)) as log,
    ):
        results = RunDirectory(Path(folder))
        status = fleet.status()
        config = config_of(status) or config
        episodes = [episode for _, page in log.read_episodes() for episode in page]
        # No clock covers all processes of a run, so this is the time from the end of the first episode to that of the newest.
        times = [episode.time for episode in episodes] or [0.0]
        write_episodes(results.episodes, episodes)
        write_evaluations(results.evaluations, log.read_evaluations())
        complete = run_state(status) is RunState.FINISHED
        write_summary(results.summary, summarize(config, status, max(times) - min(times), complete))
        write_learning_curve(results.episodes, results.evaluations, results.learning_curve, config)
        with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
            for path in (results.summary, results.episodes, results.evaluations, results.learning_curve):
                archive.add(path, path.name)


if __name__ == "__main__":
    run_program(main)
