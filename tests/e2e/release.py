"""A release in the stand-in cluster, and the questions that the steps ask it."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from sbrl.config import load
from sbrl.coordination.fleet import FleetClient
from sbrl.monitor.progress import members
from sbrl.monitor.run_status import RunStatus
from sbrl.rpc.channels import CoordinatorUnavailable
from sbrl.v1.fleet_pb2 import GetStatusResponse
from tests.e2e.cluster import POLL_SECONDS, Cluster, Failed
from tests.e2e.pods import Objects, Pod


class Release:
    """The pods of one release by their names, and its coordinator's answers."""

    def __init__(self, objects: Objects, cluster: Cluster, directory: Path) -> None:
        """Args: directory: where the run's config is written to, to be read as every role reads it."""
        self.objects, self.cluster = objects, cluster
        path = directory / "run.yaml"
        path.write_text(objects["ConfigMap", "sbrl-run"]["data"]["run.yaml"], encoding="utf-8")
        self.config = load(path)
        self._client: FleetClient | None = None

    def start_all(self) -> None:
        """All workloads at once, each with the replicas that its manifest says, as an install does."""
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
        if self._client is None:
            port = self.config.network.coordinator_address.rpartition(":")[2]
            self._client = FleetClient(f"{self.cluster.address(self.pod('coordinator-0'))}:{port}")
        return self._client.status()

    def wait(self, what: str, seconds: float, reached: Callable[[GetStatusResponse], bool]) -> GetStatusResponse:
        """Waits until the status is as `reached` wants it.

        Raises:
            Failed: it was not within `seconds`, or a pod has ended that nobody stopped.
        """
        deadline, status = time.monotonic() + seconds, GetStatusResponse()
        while time.monotonic() < deadline:
            try:
                status = self.status()
            except CoordinatorUnavailable:
                pass  # it is starting; the deadline holds for it, too
            else:
                if reached(status):
                    return status
            self.cluster.tend()
            time.sleep(POLL_SECONDS)
        raise Failed(f"not seen in {seconds:g} s: {what}; {self.numbers(status)}")

    def numbers(self, status: GetStatusResponse) -> str:
        """How far the run is, in a few words."""
        run = self.run(status)
        return (
            f"{run.env_steps:,} env steps, {run.received:,} received, {run.lost:,} lost, {run.updates:,} updates, samples per "
            f"insert {self.ratio(status):.4f}"
        )

    def run(self, status: GetStatusResponse) -> RunStatus:
        """The run's numbers in a status."""
        return RunStatus.of(status, self.config.min_replay_size)

    def ratio(self, status: GetStatusResponse) -> float:
        """Samples trained for each transition received after the warm-up; 0 before its end."""
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
        """The last line of a pod's log that has the pattern."""
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
