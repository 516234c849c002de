"""A release in the stand-in cluster, and the queries that the steps make."""

from __future__ import annotations

import base64
import os
import re
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

from sbrl.config import load
from sbrl.coordination.fleet import FleetClient
from sbrl.monitor.progress import members
from sbrl.monitor.run_status import RunStatus
from sbrl.rpc.channels import CoordinatorUnavailable
from sbrl.rpc.credentials import TOKEN_FILE
from sbrl.v1.fleet_pb2 import GetStatusResponse
from tests.chart.helm import CHART, NAMESPACE, by_name, helm
from tests.e2e.cluster import POLL_SECONDS, Cluster, Failed
from tests.e2e.pods import Objects, Pod

START_SECONDS = 600.0  # longest time for a process to load its libraries on a busy machine
WORK_SECONDS = 900.0  # longest time for some number of updates, checkpoints, ...


class Release:
    """The pods of one release by name, and its coordinator's answers."""

    def __init__(
        self, objects: Objects, cluster: Cluster, directory: Path, values: Path = Path(), settings: Sequence[str] = ()
    ) -> None:
        """
        Args:
            directory: the run's config is written here, to be read like in every role.
            values, settings: the values that it was rendered with.
        """
        self.objects, self.cluster, self.values, self.settings = objects, cluster, values, settings
        self._token = directory / "token"
        path = directory / "run.yaml"
        path.write_text(objects["ConfigMap", "sbrl-run"]["data"]["run.yaml"], encoding="utf-8")
        self.config = load(path)
        self._client: FleetClient | None = None
        self._asked = ""  # the address of the client; it changes when the coordinator's pod is placed again

    @classmethod
    def rendered(cls, values: Path, settings: Sequence[str], directory: Path, name: str) -> Self:
        """A release of the chart, called sbrl, in a cluster with this name.

        Raises:
            Failed: the chart does not render.
        """
        words = [word for setting in settings for word in ("--set", setting)]
        done = helm("template", "sbrl", str(CHART), "--namespace", NAMESPACE, "--values", str(values), *words)
        if done.returncode:
            raise Failed(f"the chart does not render: {done.stderr}")
        objects = by_name(done.stdout)
        return cls(objects, Cluster(objects, f"sbrl-e2e-{os.getpid()}-{name}", directory), directory, values, settings)

    def take_token(self) -> None:
        """Lets this process call the release's coordinator, like `sbrl status`."""
        self._token.write_bytes(base64.b64decode(self.objects["Secret", "sbrl-token"]["data"]["token"]))
        os.environ[TOKEN_FILE] = str(self._token)

    def start_all(self) -> None:
        """Starts all workloads at once, each with the replicas in its manifest, like an install."""
        for (kind, name), manifest in self.objects.items():
            if kind in ("StatefulSet", "Deployment"):
                for ordinal in range(manifest["spec"]["replicas"]):
                    self.cluster.start(name, ordinal)

    def pod(self, name: str) -> Pod:
        return self.cluster.pods[f"sbrl-{name}"]

    def status(self) -> GetStatusResponse:
        """The coordinator's status.

        Raises:
            CoordinatorUnavailable: it does not answer.
        """
        port = self.config.network.coordinator_address.rpartition(":")[2]
        address = f"{self.cluster.address(self.pod('coordinator-0'))}:{port}"
        if self._client is None or address != self._asked:
            if self._client is not None:
                self._client.close()
            self._client, self._asked = FleetClient(address), address
        return self._client.status()

    def wait(self, what: str, seconds: float, reached: Callable[[GetStatusResponse], bool]) -> GetStatusResponse:
        """Waits until `reached` is true for the status.

        Raises:
            Failed: it was not within `seconds`, or a pod ended that nobody stopped.
        """
        deadline, status = time.monotonic() + seconds, GetStatusResponse()
        while time.monotonic() < deadline:
            try:
                status = self.status()
            except CoordinatorUnavailable:
                pass  # the coordinator is starting; the deadline covers that too
            else:
                if reached(status):
                    return status
            self.cluster.tend()
            time.sleep(POLL_SECONDS)
        raise Failed(f"not seen in {seconds:g} s: {what}; {self.numbers(status)}")

    def numbers(self, status: GetStatusResponse) -> str:
        """The run's progress in a few words."""
        run = self.run(status)
        return (
            f"{run.env_steps:,} env steps, {run.received:,} received, {run.lost:,} lost, {run.updates:,} updates, samples per "
            f"insert {self.ratio(status):.4f}"
        )

    def run(self, status: GetStatusResponse) -> RunStatus:
        """The run's numbers in a status."""
        return RunStatus.of(status, self.config.min_replay_size)

    def ratio(self, status: GetStatusResponse) -> float:
        """Samples trained per transition received after the warm-up; 0 before its end."""
        return self.run(status).samples_per_insert or 0.0

    def metric(self, pod: Pod, name: str) -> float:
        """A metric without labels, as Prometheus reads it."""
        port = self.config.network.metrics_port
        with urllib.request.urlopen(f"http://{self.cluster.address(pod)}:{port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and not sample.labels:
                    return float(sample.value)
        raise Failed(f"{pod.name} has no metric {name}")

    def logged(self, pod: Pod, pattern: str) -> re.Match[str]:
        """The last line of a pod's log that matches the pattern."""
        found = list(re.finditer(pattern, self.cluster.log(pod)))
        if not found:
            raise Failed(f"{pod.name} has not logged {pattern!r}: {self.cluster.log(pod)[-2000:]}")
        return found[-1]

    def keep_logs(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, pod in self.cluster.pods.items():
            (folder / f"{name}.log").write_text(self.cluster.log(pod), encoding="utf-8")

    def close(self) -> None:
        if self._client is not None:
            self._client.close()


def alive(status: GetStatusResponse, role: str) -> int:
    """Members of a role whose lease holds."""
    return sum(member.alive for member in members(status, role))


def end_all(release: Release, pods: list[Pod]) -> str:
    """Stops pods, all at once. Raises Failed if one does not end with exit code 0."""
    with ThreadPoolExecutor(len(pods)) as pool:
        codes = dict(zip((pod.name for pod in pods), pool.map(release.cluster.stop, pods), strict=True))
    if any(codes.values()):
        raise Failed(f"exit codes are {codes}")
    return f"exit code 0 of {', '.join(codes)}"


def checkpoints_of(release: Release, shard: Pod) -> int:
    """Number of checkpoints that a shard has written since it started."""
    return len(re.findall(r"checkpoint \S+ in [\d.]+ s", release.cluster.log(shard)))


def segments(status: GetStatusResponse, shard: str) -> int:
    """Number of segments in one shard's log."""
    return int(sum(member.gauges.get("log_segments", 0) for member in members(status, "replay") if member.name == shard))
