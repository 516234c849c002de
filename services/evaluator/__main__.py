"""The evaluator: runs the frozen evaluation protocol on the newest weights during a run."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from sbrl.config import Config
from sbrl.coordination.episode_log import LogClient
from sbrl.coordination.membership import FleetMember
from sbrl.coordination.weights import WeightsClient
from sbrl.networks.policy import use_one_thread
from sbrl.runtime.env_probe import spec_for_role
from sbrl.runtime.lifecycle import RoleRuntime, load_role, role_arguments
from sbrl.runtime.memory import give_back_large_blocks
from sbrl.runtime.program import run_program
from sbrl.telemetry.metrics import EvaluatorMetrics, make_registry
from services.evaluator.loop import EvaluatorLoop


def main(argv: Sequence[str]) -> None:
    arguments, config = load_role(role_arguments("evaluator", __doc__ or ""), argv, needs_shards=False)
    spec_for_role(config.env)  # a broken environment fails now, not when the first evaluation is due
    give_back_large_blocks()
    use_one_thread()
    registry = make_registry("evaluator")
    metrics = EvaluatorMetrics(registry)
    with RoleRuntime.from_arguments(arguments, config, registry) as runtime:
        member = FleetMember.of_role(config.network.coordinator_address, "evaluator", arguments.name, metrics, runtime)
        member.start()
        try:
            if member.wait_joined_or(runtime.stop):
                watch_run(config, runtime, member, metrics)
        finally:
            member.leave()


def watch_run(config: Config, runtime: RoleRuntime, member: FleetMember, metrics: EvaluatorMetrics) -> None:
    """Builds the evaluator's parts, runs its loop, and closes them."""
    address = config.network.coordinator_address
    with contextlib.closing(WeightsClient(address)) as weights, contextlib.closing(LogClient(address)) as log:
        loop = EvaluatorLoop(config, member, weights, log, metrics, runtime.stop)
        runtime.serving()
        loop.run()


if __name__ == "__main__":
    run_program(main)
