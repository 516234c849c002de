"""`sbrl scale N`: sets the number of actors, from a laptop with a kubeconfig."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence

from sbrl.cluster import client
from sbrl.cluster.kube import REQUEST_SECONDS, Cluster, add_cluster_arguments, api_errors, connect
from sbrl.cluster.release import COMPONENT, INSTANCE, Release, add_release_argument, find_release
from sbrl.errors import RunError, UsageError
from sbrl.runtime.arguments import Parser
from sbrl.runtime.program import run_program

FIELD_MANAGER = "sbrl-scale"


def main(argv: Sequence[str]) -> None:
    arguments = make_parser().parse_args(argv)
    if arguments.actors < 0:
        raise UsageError(f"{arguments.actors} actors cannot be: 0 stops the collecting, the learner then waits")
    with contextlib.closing(connect(arguments.kubeconfig, arguments.context, arguments.namespace)) as cluster:
        release = find_release(cluster, arguments.release)
        before = cluster.scale(release.actors).replicas
        cluster.set_scale(release.actors, arguments.actors, field_manager=FIELD_MANAGER)
        print(f"actors of release {release.name} in namespace {cluster.namespace}: {before} -> {arguments.actors}")
        for warning in [*owned(cluster, release), *overruled(cluster, release)]:
            print(f"note: {warning}")


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="sbrl scale", description="Asks for another number of actors of a run on Kubernetes.")
    parser.add_argument("actors", type=int, metavar="N", help="how many there are to be")
    add_release_argument(parser)
    add_cluster_arguments(parser)
    return parser


def owned(cluster: Cluster, release: Release) -> list[str]:
    """Gives up the ownership of the field that the change gave to this program. Returns a warning if that fails."""
    try:
        cluster.disown_scale(release.actors, FIELD_MANAGER)
    except RunError as error:
        return [f"a `helm upgrade` that sets the number of actors will need --force-conflicts: {error}"]
    return []


def overruled(cluster: Cluster, release: Release) -> list[str]:
    """Warnings about everything else that sets the number of actors. Skips objects that this user may not read."""
    found = []
    with contextlib.suppress(RunError), api_errors("list", "deployments", cluster.namespace):
        controllers = cluster.apps.list_namespaced_deployment(
            cluster.namespace,
            label_selector=f"{COMPONENT}=controller,{INSTANCE}={release.name}",
            _request_timeout=REQUEST_SECONDS,
        )
        found += [
            f"the controller (deployment {one.metadata.name}) goes on from there as the run demands; to keep a number, set "
            f"actors.scaledBy=hand in the chart"
            for one in controllers.items
            if one.spec.replicas
        ]
    with contextlib.suppress(RunError), api_errors("list", "horizontalpodautoscalers", cluster.namespace):
        autoscalers = client.AutoscalingV2Api(cluster.api).list_namespaced_horizontal_pod_autoscaler(
            cluster.namespace, _request_timeout=REQUEST_SECONDS
        )
        found += [
            f"the HorizontalPodAutoscaler {one.metadata.name} sets it again; to keep a number, set actors.scaledBy=hand in the "
            f"chart"
            for one in autoscalers.items
            if one.spec.scale_target_ref.kind == "Deployment" and one.spec.scale_target_ref.name == release.actors
        ]
    return found


if __name__ == "__main__":
    run_program(main)
