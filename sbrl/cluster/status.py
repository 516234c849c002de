"""`sbrl status`: the state of a run on Kubernetes, from a laptop: pods, ratio, who waits for whom."""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sbrl.cluster.forward import forwarded
from sbrl.cluster.kube import COMPONENT, REQUEST_SECONDS, Cluster, add_cluster_arguments, api_errors, connect
from sbrl.cluster.release import (
    Release,
    add_release_argument,
    coordinator_pod,
    current,
    find_release,
    pods,
    role,
    run_config,
    run_credentials,
)
from sbrl.config import Config
from sbrl.coordination.fleet_watch import run_state
from sbrl.errors import RunError, UsageError, plain
from sbrl.monitor.load import LoadReading, measure, read
from sbrl.monitor.progress import Progress, ProgressMeter
from sbrl.monitor.readable import duration, number
from sbrl.monitor.run_status import config_of
from sbrl.rpc import channels
from sbrl.rpc.credentials import Credentials
from sbrl.runtime.arguments import Parser
from sbrl.runtime.program import run_program
from sbrl.v1 import fleet_pb2, fleet_pb2_grpc

CALL_SECONDS = 10.0
ROLES = ("coordinator", "replay", "learner", "actor", "evaluator", "controller")


class PodRow(NamedTuple):
    """A pod in one line of the output."""

    role: str
    name: str
    state: str  # Ready, or the reason why not
    restarts: int
    age_seconds: float
    node: str


def main(argv: Sequence[str]) -> None:
    arguments = make_parser().parse_args(argv)
    if arguments.seconds <= 0:
        raise UsageError(f"--seconds {plain(arguments.seconds)} must be more than 0: rates need two looks")
    with contextlib.closing(connect(arguments.kubeconfig, arguments.context, arguments.namespace)) as cluster:
        release = find_release(cluster, arguments.release)
        rows = [pod_row(pod, datetime.now(UTC)) for pod in current(pods(cluster, release.name))]
        wanted = cluster.scale(release.actors).replicas
        title = f"release {release.name} in namespace {cluster.namespace} of context {cluster.context}"
        if not arguments.json:  # now, because the rest takes some seconds and may fail
            print("\n".join([title, "", *pod_lines(rows, wanted, everything=arguments.pods), ""]), flush=True)
        config, progress, reading, state, last = look(cluster, release, arguments.seconds, wanted)
        event = newest_event(cluster, release.actors)
        if arguments.json:
            print(json.dumps(as_tree(release, rows, wanted, config, progress, reading, state), indent=2))
        else:
            print("\n".join(run_lines(config, progress, state, gone(last, rows), event)))


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="sbrl status", description="Shows how a run on Kubernetes stands: pods, ratio, who waits for whom.")
    add_release_argument(parser)
    add_cluster_arguments(parser)
    parser.add_argument("--pods", action="store_true", help="name every pod, not only those that are not ready")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--seconds",
        type=float,
        default=5.0,
        metavar="S",
        help="between two looks, which rates come from (default: %(default)g)",
    )
    return parser


def look(
    cluster: Cluster, release: Release, seconds: float, wanted: int
) -> tuple[Config, Progress, tuple[LoadReading, LoadReading], str, fleet_pb2.GetStatusResponse]:
    """Asks the coordinator twice through a forwarded port, with the config and token of its pod."""
    pod = coordinator_pod(cluster, release.name)
    config, credentials = run_config(cluster, pod), run_credentials(cluster, pod)
    port = int(config.network.coordinator_address.rpartition(":")[2])
    with forwarded(cluster, str(pod.metadata.name), port) as address:
        first = ask(address, credentials)
        config = config_of(first) or config
        meter = ProgressMeter(config)
        start = time.monotonic()
        meter.read(first, start)
        time.sleep(seconds)
        last = ask(address, credentials)
    now = time.monotonic()
    state = run_state(last)
    readings = read(first, config, start, wanted), read(last, config, now, wanted)
    return config, meter.read(last, now), readings, "unknown" if state is None else state.name.lower(), last


def ask(address: str, credentials: Credentials) -> fleet_pb2.GetStatusResponse:
    """The fleet's status.

    Raises:
        CoordinatorUnavailable: no answer; RunError: the token is not the run's.
    """
    with channels.open_channel(address, credentials) as channel, channels.coordinator_errors("the end of the forwarded port"):
        response: fleet_pb2.GetStatusResponse = fleet_pb2_grpc.FleetStub(channel).GetStatus(
            fleet_pb2.GetStatusRequest(), timeout=CALL_SECONDS
        )
    return response


def pod_row(pod: Any, now: datetime) -> PodRow:
    containers = pod.status.container_statuses or []
    created = pod.metadata.creation_timestamp
    return PodRow(
        role=role(pod),
        name=str(pod.metadata.name),
        state=pod_state(pod),
        restarts=sum(int(container.restart_count) for container in containers),
        age_seconds=max(0.0, (now - created).total_seconds()) if created is not None else 0.0,
        node=str(pod.spec.node_name or "-"),
    )


def pod_state(pod: Any) -> str:
    """The state as in kubectl: Ready, or the best available reason."""
    if pod.metadata.deletion_timestamp is not None:
        return "Terminating"
    for container in pod.status.container_statuses or ():
        for state in (container.state.waiting, container.state.terminated) if container.state is not None else ():
            if state is not None and state.reason:
                return str(state.reason)
    conditions = {condition.type: condition for condition in pod.status.conditions or ()}
    scheduled, ready = conditions.get("PodScheduled"), conditions.get("Ready")
    if scheduled is not None and scheduled.status == "False":
        return str(scheduled.reason or "Unschedulable")
    if ready is not None and ready.status == "True":
        return "Ready"
    return "NotReady" if pod.status.phase == "Running" else str(pod.status.phase)


def pod_lines(rows: Iterable[PodRow], actors_wanted: int, everything: bool) -> list[str]:
    """A line per role, and below it its pods that are not ready (or all)."""
    rows = list(rows)
    lines = [f"{'ROLE':12} {'READY':>9} {'RESTARTS':>9}"]
    for name in (*ROLES, *sorted({row.role for row in rows} - set(ROLES))):
        own = [row for row in rows if row.role == name]
        if not own and name != "actor":
            continue
        ready = f"{sum(row.state == 'Ready' for row in own)}/{actors_wanted if name == 'actor' else len(own)}"
        lines.append(f"{name:12} {ready:>9} {sum(row.restarts for row in own):>9}")
        lines += [
            f"  {row.name}: {row.state}, {row.restarts} restarts, {duration(row.age_seconds)} old, on node {row.node}"
            for row in own
            if everything or row.state != "Ready"
        ]
    return lines


def gone(status: fleet_pb2.GetStatusResponse, rows: Iterable[PodRow]) -> list[str]:
    """Silent members whose pod exists. A member without its pod was replaced, and does not count."""
    there = {row.name for row in rows}
    return sorted(member.name for member in status.members if not member.alive and member.name in there)


def run_lines(config: Config, progress: Progress, state: str, silent: Sequence[str], event: str | None) -> list[str]:
    """The run's state, one fact per line."""
    share = progress.env_steps / progress.target_env_steps
    speed = f"{progress.env_steps_per_second:,.0f} steps/s, {progress.updates_per_second:,.1f} updates/s"
    rows = {
        "run": f"{state}, {progress.env_steps:,} of {progress.target_env_steps:,} env steps ({share:.0%}), {speed}, "
        f"ETA {duration(progress.eta_seconds)}",
        "ratio": f"samples per insert {progress.samples_per_insert:.4f}, target {config.samples_per_insert:g}; "
        f"updates per step {progress.updates_per_step:.4f}, target {config.learner.updates_per_step:g}",
        "who waits": progress.waiting,
        "shards": "  ".join(f"{size:,}" for size in progress.shard_sizes) or "none",
        "weights": f"version {progress.weights_version}, {duration(progress.weights_age_seconds)} old",
        "returns": f"training {number(progress.return_mean)} ({progress.num_episodes:,} episodes), evaluation "
        f"{number(progress.evaluation[0] if progress.evaluation else None)}",
        "members": ", ".join(f"{count} {name}" for name, count in progress.alive.items() if count) or "none",
        "gone": ", ".join(silent[:10]),
        "last scaled": event or "",
    }
    return [f"{name:12} {value}" for name, value in rows.items() if value]


def newest_event(cluster: Cluster, deployment: str) -> str | None:
    """The controller's last event about the actors' Deployment; None if there is none that this user may read."""
    try:
        with api_errors("list", "events", cluster.namespace):
            events = cluster.core.list_namespaced_event(
                cluster.namespace,
                field_selector=f"involvedObject.kind=Deployment,involvedObject.name={deployment}",
                _request_timeout=REQUEST_SECONDS,
            ).items
    except RunError:
        return None
    own = [event for event in events if event.reporting_component == COMPONENT and event.last_timestamp is not None]
    newest = max(own, key=lambda event: event.last_timestamp, default=None)
    if newest is None:
        return None
    age = (datetime.now(UTC) - newest.last_timestamp).total_seconds()
    return f"{duration(max(0.0, age))} ago: {newest.message}"


def as_tree(
    release: Release,
    rows: Iterable[PodRow],
    wanted: int,
    config: Config,
    progress: Progress,
    readings: tuple[LoadReading, LoadReading],
    state: str,
) -> dict[str, Any]:
    """The whole status as plain data, for programs."""
    first, last = readings
    measured = measure(readings, last.time - first.time)
    return {
        "release": release.name,
        "state": state,
        "actors_wanted": wanted,
        "actors_live": last.actors_live,
        "pods": [row._asdict() for row in rows],
        "samples_per_insert_target": config.samples_per_insert,
        "learner_waiting_ratio": None if measured is None else measured.learner_waiting,
        "actors_blocked_ratio": None if measured is None else measured.actors_blocked,
        "queue_fill_ratio": last.queue_fill,
        "progress": progress._asdict(),
    }


if __name__ == "__main__":
    run_program(main)
