"""The controller: scales the actors so that the learner does not wait for transitions and actors are not idle."""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Sequence

from sbrl.cluster.kube import Cluster, add_cluster_arguments, connect
from sbrl.coordination.fleet import FleetClient
from sbrl.errors import UsageError, plain
from sbrl.runtime.lifecycle import RoleRuntime, load_role, role_arguments
from sbrl.runtime.program import run_program
from sbrl.telemetry.metrics import ControllerMetrics, make_registry
from services.controller.election import Election, LeaseElection, Unopposed
from services.controller.loop import ControllerLoop
from services.controller.reconcile import MAX_GAP_SECONDS, ScalingSpec, check

logger = logging.getLogger(__name__)

DEFAULT = ScalingSpec()


def main(argv: Sequence[str]) -> None:
    arguments, config = load_role(make_parser(), argv, needs_shards=False)
    spec = make_spec(arguments)
    if not 0 < arguments.interval_seconds <= MAX_GAP_SECONDS / 2:
        raise UsageError(
            f"--interval-seconds {plain(arguments.interval_seconds)} must be more than 0 and at most "
            f"{plain(MAX_GAP_SECONDS / 2)}: readings that lie further apart say nothing together"
        )
    registry = make_registry("controller")
    metrics = ControllerMetrics(registry)
    with contextlib.ExitStack() as closing:
        cluster = connect(arguments.kubeconfig, arguments.context, arguments.namespace)
        closing.callback(cluster.close)
        fleet = FleetClient(config.network.coordinator_address)
        closing.callback(fleet.close)
        runtime = closing.enter_context(RoleRuntime.from_arguments(arguments, config, registry))
        loop = ControllerLoop(
            config,
            spec,
            cluster,
            arguments.deployment,
            fleet,
            make_election(arguments, cluster),
            metrics,
            runtime.stop,
            name=arguments.name,
            interval_seconds=arguments.interval_seconds,
            dry_run=arguments.dry_run,
        )
        logger.info(
            "%s deployment %s in namespace %s between %d and %d actors",
            "watching (dry run)" if arguments.dry_run else "scaling",
            arguments.deployment,
            cluster.namespace,
            spec.min_actors,
            spec.max_actors,
        )
        loop.run(runtime.serving)


def make_parser() -> argparse.ArgumentParser:
    parser = role_arguments("controller", __doc__ or "")
    add_cluster_arguments(parser)
    parser.add_argument("--deployment", required=True, metavar="NAME", help="the actors' Deployment")
    parser.add_argument("--dry-run", action="store_true", help="change nothing, only say what would be done")
    parser.add_argument(
        "--lease", metavar="NAME", help="of several controllers only the holder of this Lease acts; without it there is one"
    )
    parser.add_argument(
        "--interval-seconds", type=float, default=5.0, metavar="S", help="between two looks (default: %(default)g)"
    )
    for name, meaning in (
        ("min_actors", "fewest actors while the run goes on; none once it is done"),
        ("max_actors", "most actors"),
        ("target_load", "part of the actors' full speed that a change aims to use; the rest keeps the learner fed"),
        ("low_load", "actors go below this load"),
        ("high_load", "actors are added above it: over 1, the learner waits 1 - 1/load of its time"),
        ("urgent_load", "actors are added after the urgent window above it"),
        ("settle_seconds", "wait after a change before measuring: longer than an actor takes to start"),
        ("window_seconds", "time measured before a change"),
        ("urgent_window_seconds", "time measured before an urgent one"),
        ("max_growth", "part of the fleet added at once, at least one actor"),
        ("max_shrink", "part of the fleet taken away at once, at least one actor"),
        ("memory_seconds", "how long a size at which the learner starved is not gone back to"),
    ):
        default = getattr(DEFAULT, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(default),
            default=default,
            metavar="N" if isinstance(default, int) else "S" if name.endswith("seconds") else "X",
            help=f"{meaning} (default: %(default)g)",
        )
    return parser


def make_spec(arguments: argparse.Namespace) -> ScalingSpec:
    """The spec that the command line describes.

    Raises:
        UsageError: the spec contradicts itself.
    """
    spec = ScalingSpec(**{name: getattr(arguments, name) for name in ScalingSpec._fields})
    check(spec)
    return spec


def make_election(arguments: argparse.Namespace, cluster: Cluster) -> Election:
    # A dry run writes nothing, not even a lease: each one only says what it would do, however many run.
    if arguments.lease is None or arguments.dry_run:
        return Unopposed()
    return LeaseElection(cluster, arguments.lease, arguments.name)


if __name__ == "__main__":
    run_program(main)
