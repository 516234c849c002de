"""What `helm test` runs: whether this release's run works, asked of its coordinator.

It passes once the learner makes updates and every shard holds the run's ratio, and says after a time limit what is missing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from sbrl.config import Config, load
from sbrl.errors import RunError, plain
from sbrl.fleet import FleetClient, RunState
from sbrl.fleet_watch import run_state, total
from sbrl.lifecycle import run_program
from sbrl.progress import members
from sbrl.rpc import CoordinatorUnavailable
from sbrl.sharding import shard_limits
from sbrl.v1.fleet_pb2 import GetStatusResponse

LOOK_SECONDS = 5.0
TOLERANCE = 0.01  # of the samples due, beyond what the limiters let either side be ahead


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the run's config")
    parser.add_argument("--timeout-seconds", type=float, default=600.0, help="how long it may take (default: %(default)s)")
    arguments = parser.parse_args(argv)
    config = load(arguments.config)
    client = FleetClient(config.network.coordinator_address)
    deadline = time.monotonic() + arguments.timeout_seconds
    before, problems = GetStatusResponse(), ["the coordinator has not answered"]
    while time.monotonic() < deadline:
        try:
            now = client.status()
        except CoordinatorUnavailable as error:
            problems = [str(error)]
        else:
            problems = judge(config, before, now)
            if not problems:
                print(f"ok: {summary(config, now)}")
                return
            before = before if before.members else now
        print(f"not yet: {'; '.join(problems)}", flush=True)
        time.sleep(LOOK_SECONDS)
    raise RunError(f"after {plain(arguments.timeout_seconds)} s: {'; '.join(problems)}")


def judge(config: Config, before: GetStatusResponse, now: GetStatusResponse) -> list[str]:
    """What is wrong at `now`, a sentence each; `before` is the first answer, empty for the first itself."""
    updates_before, updates = (total(status, "learner.updates") for status in (before, now))
    if not updates:
        inserted = total(now, "replay.transitions_inserted")
        problems = [f"no updates yet: {inserted:.0f} of {config.min_replay_size} transitions are inserted before the first"]
    elif run_state(now) is RunState.FINISHED:
        problems = []
    elif not before.members:
        problems = [f"{updates:.0f} updates: looking whether there are more"]
    else:
        problems = [] if updates > updates_before else [f"the learner is at {updates:.0f} updates and makes no more"]
    return problems + shard_problems(config, now)


def shard_problems(config: Config, status: GetStatusResponse) -> list[str]:
    """Shards that are missing, or whose limiter is not where it has to be."""
    shards = {member.index: member.gauges for member in members(status, "replay") if member.alive}
    problems = []
    for shard in range(config.replay.num_shards):
        if shard not in shards:
            problems.append(f"shard {shard} has not joined")
            continue
        limits = shard_limits(config, shard)
        inserts, samples = shards[shard].get("limiter_inserts", 0.0), shards[shard].get("limiter_samples", 0.0)
        due = max(0.0, inserts - limits.min_size) * limits.samples_per_insert
        if abs(samples - due) > TOLERANCE * due + limits.max_diff - limits.min_diff:
            problems.append(f"shard {shard} has served {samples:.0f} samples where {due:.0f} are due")
    return problems


def summary(config: Config, status: GetStatusResponse) -> str:
    """What was reached, in a line."""
    trained = total(status, "learner.samples_trained")
    inserted = total(status, "replay.transitions_inserted") - config.min_replay_size
    alive = sum(member.alive for member in status.members)
    ratio = f"{trained / inserted:.4f}" if inserted > 0 else "none yet"
    return (
        f"{total(status, 'learner.updates'):.0f} updates, {total(status, 'actor.env_steps'):.0f} env steps, samples per insert "
        f"{ratio} (target {config.samples_per_insert:g}), weights version {status.weights_version}, {alive} members"
    )


if __name__ == "__main__":
    run_program(main)
