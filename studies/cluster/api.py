"""The few calls to Kubernetes that studies make, all through sbrl.cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sbrl.cluster import client
from sbrl.cluster.kube import ApiConflict, Cluster, add_cluster_arguments, api_errors, connect
from studies.cluster.manifests import STUDY_LABEL

__all__ = ["ApiConflict", "Cluster", "add_cluster_arguments", "connect", "create", "jobs", "logs"]

SECONDS = 30.0  # for one call
PAGE = 500  # pods per answer


def create(cluster: Cluster, manifest: dict[str, Any]) -> None:
    """Creates a ConfigMap or a Job.

    Raises:
        ApiConflict: one with that name exists.
        RunError: the API server refuses it, or does not answer.
    """
    core, batch = cluster.core, client.BatchV1Api(cluster.api)
    calls = {"ConfigMap": core.create_namespaced_config_map, "Job": batch.create_namespaced_job}
    with api_errors("create", f"{manifest['kind'].lower()}s {manifest['metadata']['name']}", cluster.namespace):
        calls[manifest["kind"]](cluster.namespace, manifest, _preload_content=False, _request_timeout=SECONDS)


def jobs(cluster: Cluster, study: str) -> list[dict[str, Any]]:
    """The Jobs of a study, as JSON. Raises RunError."""
    with api_errors("list", "jobs", cluster.namespace):
        answer = client.BatchV1Api(cluster.api).list_namespaced_job(
            cluster.namespace, label_selector=f"{STUDY_LABEL}={study}", _preload_content=False, _request_timeout=SECONDS
        )
    found: list[dict[str, Any]] = json.loads(answer.data)["items"]
    return found


def logs(cluster: Cluster, study: str) -> Iterator[tuple[str, str]]:
    """(name, log) of each finished pod of a study. Raises RunError."""
    following = ""
    while True:
        with api_errors("list", "pods", cluster.namespace):
            answer = cluster.core.list_namespaced_pod(
                cluster.namespace,
                label_selector=f"{STUDY_LABEL}={study}",
                field_selector="status.phase=Succeeded",
                limit=PAGE,
                _continue=following,
                _preload_content=False,
                _request_timeout=SECONDS,
            )
        tree = json.loads(answer.data)
        for name in (pod["metadata"]["name"] for pod in tree["items"]):
            with api_errors("get", f"pods/log {name}", cluster.namespace):
                log = cluster.core.read_namespaced_pod_log(
                    name, cluster.namespace, _preload_content=False, _request_timeout=SECONDS
                )
            yield name, log.data.decode(errors="replace")
        following = tree["metadata"].get("continue", "")
        if not following:
            return
