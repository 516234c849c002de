"""The program of `helm test`: asks the coordinator whether this release's run works.

It passes once the learner makes updates, reaches every shard and holds the ratio. After a time limit it prints what is missing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from sbrl.config import Config, load
from sbrl.coordination.fleet import FleetClient, RunState
from sbrl.errors import RunError, plain
from sbrl.monitor.run_status import RunStatus, config_of
from sbrl.rpc.channels import CoordinatorUnavailable
from sbrl.runtime.program import run_program
from sbrl.v1.fleet_pb2 import GetStatusResponse

LOOK_SECONDS = 5.0
TOLERANCE = 0.01  # share of the samples due, in addition to what the learner may be behind


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
    """The problems at `now`, one sentence each. `before` is the first answer, empty if `now` is the first."""
    run = RunStatus.of(now, config.min_replay_size)
    problems = [*shard_problems(config, run)]
    if not run.updates:
        problems.append(f"no updates yet: {run.received} of {config.min_replay_size} transitions are received before the first")
    elif run.state is not RunState.FINISHED:
        if not before.members:
            problems.append(f"{run.updates} updates: looking whether there are more")
        elif run.updates <= before.progress.updates:
            problems.append(f"the learner is at {run.updates} updates and makes no more")
    return problems + ratio_problems(config, run)


def shard_problems(config: Config, run: RunStatus) -> list[str]:
    """Shards that the learner does not reach. Once the run is finished, none has to answer."""
    if run.state is RunState.FINISHED:
        return []
    up = [shard for shard, one in enumerate(run.shards) if one.answers]
    return [f"the learner does not reach shard {shard}" for shard in range(config.replay.num_shards) if shard not in up]


def ratio_problems(config: Config, run: RunStatus) -> list[str]:
    """A problem if more was trained than is due, or the learner is further behind than it may be."""
    if run.keeps_ratio(config.samples_per_insert, config.receive_ahead, TOLERANCE):
        return []
    return [f"{run.samples_trained} samples are trained where {run.samples_due:.0f} are due"]


def summary(config: Config, status: GetStatusResponse) -> str:
    """The run's progress in one line."""
    run = RunStatus.of(status, config.min_replay_size)
    alive = sum(member.alive for member in status.members)
    ratio = "none yet" if run.samples_per_insert is None else f"{run.samples_per_insert:.4f}"
    return (
        f"{run.updates} updates, {run.env_steps} env steps, samples per insert {ratio} "
        f"(target {config.samples_per_insert:g}), weights version {status.weights_version}, {alive} members"
    )


if __name__ == "__main__":
    run_program(main)
