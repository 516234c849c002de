"""The coordinator's program: `python -m services.coordinator --config run.yaml`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sbrl import config as configs
from sbrl.config import Config
from sbrl.coordination.membership import FleetMember
from sbrl.rpc import channels
from sbrl.runtime.lifecycle import RoleRuntime, load_role, role_arguments
from sbrl.runtime.memory import give_back_large_blocks
from sbrl.runtime.program import run_program
from sbrl.telemetry.metrics import CoordinatorMetrics, export_disk, make_registry
from services.coordinator.server import Coordinator

_DESCRIPTION = "Distributes weights, leases the fleet's places, and keeps the log of episodes and evaluations."
_GRACE_SECONDS = 5.0


def main(argv: Sequence[str]) -> None:
    """Serves until SIGTERM."""
    parser = role_arguments("coordinator", _DESCRIPTION)
    arguments, config = load_role(parser, argv, needs_coordinator=False, needs_shards=False)
    give_back_large_blocks()
    registry = make_registry("coordinator")
    metrics = CoordinatorMetrics(registry)
    coordinator = Coordinator(
        arguments.run_dir / "coordinator",
        metrics,
        settle=lambda before: settled_config(arguments.config, before),
    )
    host, port = config.network.bind_host, int(config.network.coordinator_address.rpartition(":")[2])
    with RoleRuntime.from_arguments(arguments, config, registry) as runtime:
        bound = coordinator.start(host, port)
        export_settings(coordinator.config, metrics)
        export_disk(registry, arguments.run_dir)
        # The coordinator is also a member, so that the fleet's list has its health and metrics addresses too.
        member = FleetMember.of_role(channels.reachable_address(host, bound), "coordinator", arguments.name, metrics, runtime)
        member.start()
        runtime.serving()
        runtime.stop.wait()
        member.leave()
        coordinator.stop(_GRACE_SECONDS)


def settled_config(path: Path, before: str) -> Config:
    """The run's config. Values derived from run.env_steps, if not set, stay as they were when the run began.

    Args:
        path: the file of the config that is given now.
        before: the config that the run used before, as YAML; empty for a new run.

    Raises:
        UsageError: one of them cannot be read.
    """
    given = configs.read_yaml(path)
    return configs.build(given) if not before else configs.keep_derived(given, configs.parse(before, "the run's config"))


def export_settings(config: Config, metrics: CoordinatorMetrics) -> None:
    """Exports the configured values that alerts and tools compare readings with."""
    metrics.target_env_steps.set(config.run.env_steps)
    metrics.min_replay_size.set(config.min_replay_size)
    metrics.samples_per_insert_target.set(config.samples_per_insert)
    metrics.batch_size.set(config.learner.batch_size)
    metrics.shards_configured.set(config.replay.num_shards)
    metrics.evaluation_interval_env_steps.set(config.evaluator.interval_env_steps)


if __name__ == "__main__":
    run_program(main)
