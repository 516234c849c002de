"""`sbrl top` and `sbrl doctor` for a release on Kubernetes, from a kubeconfig.

They reach the coordinator through a forwarded port, with the release's token, and read the pods' state from the API.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from sbrl.cluster.forward import forwarded
from sbrl.cluster.kube import Cluster, add_cluster_arguments, connect
from sbrl.cluster.release import (
    Release,
    add_release_argument,
    coordinator_pod,
    find_release,
    pods,
    role,
    run_config,
    run_credentials,
)
from sbrl.cluster.status import ROLES, pod_state
from sbrl.config import Config
from sbrl.coordination.fleet import FleetClient
from sbrl.errors import UsageError
from sbrl.monitor import doctor, top
from sbrl.monitor.diagnosis import Finding, diagnose
from sbrl.monitor.observation import NOT_SERVING, SERVING, Observation, observe
from sbrl.rpc.credentials import Credentials
from sbrl.runtime.arguments import Parser
from sbrl.runtime.program import run_program

READY = "Ready"
PASSING = frozenset({"NotReady", "ContainerCreating", "PodInitializing", "Terminating"})  # on the way, or waiting for others


class CoordinatorAccess(NamedTuple):
    """The access to a release's coordinator."""

    release: Release
    pod: str
    address: str
    config: Config
    credentials: Credentials


def main(argv: Sequence[str]) -> int:
    """Takes `top` or `doctor` and its arguments."""
    command, *rest = argv
    arguments = make_parser(command).parse_args(rest)
    with contextlib.ExitStack() as closing:
        cluster = connect(arguments.kubeconfig, arguments.context, arguments.namespace)
        closing.callback(cluster.close)
        access = closing.enter_context(way_to_coordinator(cluster, arguments.release))
        if command == "doctor":
            return judge(cluster, access, arguments.seconds)
        client = closing.enter_context(contextlib.closing(FleetClient(access.address, access.credentials)))
        title = f"release {access.release.name} in namespace {cluster.namespace}"
        return top.watch(client, access.config, title, arguments.interval, arguments.readings)


def make_parser(command: str) -> argparse.ArgumentParser:
    """
    Raises:
        UsageError: the command is neither of the two.
    """
    if command not in ("top", "doctor"):
        raise UsageError(f"{command!r} is not to be had of a release: top and doctor are")
    parser = Parser(prog=f"sbrl {command}", description=__doc__)
    add_release_argument(parser)
    add_cluster_arguments(parser)
    (top.add_view_arguments if command == "top" else doctor.add_time_argument)(parser)
    return parser


@contextlib.contextmanager
def way_to_coordinator(cluster: Cluster, name: str | None) -> Iterator[CoordinatorAccess]:
    """The access to a release's coordinator within this context, with the config and token of its pod."""
    release = find_release(cluster, name)
    pod = coordinator_pod(cluster, release.name)
    config, credentials = run_config(cluster, pod), run_credentials(cluster, pod)
    port = int(config.network.coordinator_address.rpartition(":")[2])
    with forwarded(cluster, str(pod.metadata.name), port) as address:
        yield CoordinatorAccess(release, str(pod.metadata.name), address, config, credentials)


def judge(cluster: Cluster, access: CoordinatorAccess, seconds: float) -> int:
    """Prints the doctor's findings. A pod's readiness replaces its role's health, which is not reachable from here."""
    found = pods(cluster, access.release.name)
    states = {str(pod.metadata.name): pod_state(pod) for pod in found}
    healths = {name: SERVING if state == READY else NOT_SERVING for name, state in states.items()}
    wanted = cluster.scale(access.release.actors).replicas
    config = access.config.model_copy(update={"actors": access.config.actors.model_copy(update={"num_actors": wanted})})
    run = observe(access.address, config, None, max(1.0, seconds), credentials=access.credentials, healths=healths)
    findings = [*pod_findings(found), *(diagnose(run) if run.coordinator_error is None else [mute_coordinator(run, access)])]
    print(doctor.report(run, findings))
    return doctor.exit_code(findings)


def pod_findings(found: Iterable[Any]) -> Iterator[Finding]:
    """Why pods are not running, in Kubernetes' own words. These findings come first: others follow from them."""
    for pod in found:
        state = pod_state(pod)
        if state in (READY, *PASSING) or role(pod) not in ROLES:
            continue
        restarts = sum(int(container.restart_count) for container in pod.status.container_statuses or ())
        name = str(pod.metadata.name)
        text = f"pod {name} ({role(pod)}) is not ready: {state}, after {restarts} restarts"
        yield Finding(role(pod), text, f"kubectl describe pod {name}; kubectl logs {name} --previous")


def mute_coordinator(run: Observation, access: CoordinatorAccess) -> Finding:
    """The coordinator does not answer. Its pod runs, because otherwise there would be no access."""
    text = f"the coordinator's pod {access.pod} runs but does not answer: {run.coordinator_error}; all others wait for it"
    return Finding(
        "coordinator",
        text,
        f"kubectl logs {access.pod}; kubectl delete pod {access.pod} has it started again, with all it knew",
    )


if __name__ == "__main__":
    run_program(main)
