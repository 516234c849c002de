"""What `helm test` runs: whether this release's run works, asked of its coordinator.

It passes once the learner makes updates at the run's ratio and reaches every shard; after a time limit it says what is missing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from sbrl.config import SEGMENT_STEPS, Config, load
from sbrl.errors import RunError, plain
from sbrl.fleet import FleetClient, RunState
from sbrl.lifecycle import run_program
from sbrl.progress import members
from sbrl.rpc import CoordinatorUnavailable
from sbrl.run_status import RunStatus, config_of
from sbrl.v1.fleet_pb2 import GetStatusResponse

LOOK_SECONDS = 5.0


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
            config = config_of(now) or config
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
    run, earlier = (RunStatus.of(status, config.min_replay_size) for status in (now, before))
    if not run.updates:
        problems = [f"no updates yet: {run.received} of {config.min_replay_size} transitions are received before the first"]
    elif run.state is RunState.FINISHED:
        problems = []
    elif not before.members:
        problems = [f"{run.updates} updates: looking whether there are more"]
    else:
        problems = [] if run.updates > earlier.updates else [f"the learner is at {run.updates} updates and makes no more"]
    return problems + ratio_problems(config, run) + shard_problems(config, now, run)


def ratio_problems(config: Config, run: RunStatus) -> list[str]:
    """Samples that are missing, or that are more than were due."""
    # The learner reads so far ahead of its updates and no further, but for the segment that it is reading.
    behind = (config.receive_ahead + SEGMENT_STEPS) * config.samples_per_insert
    if -config.learner.batch_size <= run.samples_due - run.samples_trained <= max(behind, config.learner.batch_size):
        return []
    return [f"{run.samples_trained} samples are trained where {run.samples_due:.0f} are due"]


def shard_problems(config: Config, status: GetStatusResponse, run: RunStatus) -> list[str]:
    """Shards that are missing, or that the learner does not reach."""
    joined = {member.index for member in members(status, "replay") if member.alive}
    problems = []
    for shard in range(config.replay.num_shards):
        if shard not in joined:
            problems.append(f"shard {shard} has not joined")
        elif run.state is not RunState.FINISHED and not (shard < len(run.shards) and run.shards[shard].answers):
            problems.append(f"the learner does not reach shard {shard}")
    return problems


def summary(config: Config, status: GetStatusResponse) -> str:
    """What was reached, in a line."""
    run = RunStatus.of(status, config.min_replay_size)
    alive = sum(member.alive for member in status.members)
    ratio = "none yet" if run.samples_per_insert is None else f"{run.samples_per_insert:.4f}"
    return (
        f"{run.updates} updates, {run.env_steps} env steps, samples per insert {ratio} (target {config.samples_per_insert:g}), "
        f"weights version {status.weights_version}, {alive} members"
    )


if __name__ == "__main__":
    run_program(main)
