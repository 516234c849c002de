"""A study on Kubernetes: one Indexed Job with a pod per run, and a ConfigMap that maps indexes to runs. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from sbrl.errors import UsageError
from studies.arms import PlannedRun
from studies.design import Study

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
STUDY_LABEL, COMPONENT = "sbrl.dev/study", "study"
MOUNT, WORK = "/etc/sbrl/study", "/var/lib/sbrl/study"
STUDY_FILE, SUBMISSION = "study.yaml", "submission.json"
LARGEST_CONFIG_MAP = 1_000_000  # bytes; the API server refuses more than 1 MiB
RETRIES = 2  # of a pod that ends for another reason than an eviction; a failed run does not fail its pod
USER = 10001  # the image's user


class Placement(NamedTuple):
    """The pods' queue and storage, and the nodes that they may run on."""

    image: str
    namespace: str
    parallelism: int
    cpu: str = "1"
    memory: str = "2Gi"
    gpus: int = 0
    queue: str = ""  # Kueue's LocalQueue; empty: none
    claim: str = ""  # a PersistentVolumeClaim for run directories, so that an evicted run resumes; empty: it starts again
    spot: str = ""  # key=value: only nodes with that label; their taint with that key is tolerated; empty: any node


def job_name(study: Study, runs: Sequence[PlannedRun]) -> str:
    """The Job's name for a set of runs. Equal sets have equal names, so that they are not submitted twice."""
    digest = hashlib.sha256("\n".join(f"{run.name} {run.hash}" for run in runs).encode()).hexdigest()[:8]
    return f"sbrl-study-{study.name.replace('.', '-')[:40].strip('-')}-{digest}"


def manifests(
    study: Study, source: str, runs: Sequence[PlannedRun], chosen: dict[str, str], placement: Placement
) -> list[dict[str, Any]]:
    """The ConfigMap and the Job.

    Args:
        source: the study file's text.
        runs: in the order of their indexes.
        chosen: by arm, the variant that its tuning chose.

    Raises:
        UsageError: there are more runs than a ConfigMap can hold.
    """
    name = job_name(study, runs)
    submission = json.dumps({"purpose": runs[0].purpose, "chosen": chosen, "runs": [run.name for run in runs]})
    if len(submission) + len(source) > LARGEST_CONFIG_MAP:
        raise UsageError(f"study {study.name} has {len(runs)} runs to submit, more than a ConfigMap can name: take fewer arms")
    labels = {
        "app.kubernetes.io/name": "sbrl",
        "app.kubernetes.io/component": COMPONENT,
        STUDY_LABEL: study.name,
    }
    queue = {QUEUE_LABEL: placement.queue} if placement.queue else {}
    metadata = {
        "name": name,
        "namespace": placement.namespace,
        "labels": {**labels, **queue},
    }
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "immutable": True,
        "data": {STUDY_FILE: source, SUBMISSION: submission},
    }
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "completionMode": "Indexed",
            "completions": len(runs),
            "parallelism": min(placement.parallelism, len(runs)),
            "backoffLimitPerIndex": RETRIES,
            # The loss of a node does not count as a failure: the pod is made again, however often.
            "podFailurePolicy": {
                "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
            },
            "podReplacementPolicy": "Failed",  # two pods of one run would write to one folder
            "template": {
                "metadata": {"labels": labels},
                "spec": _pod(name, placement),
            },
        },
    }
    return [config_map, job]


def _pod(name: str, placement: Placement) -> dict[str, Any]:
    resources: dict[str, Any] = {
        "requests": {"cpu": placement.cpu, "memory": placement.memory},
        "limits": {"memory": placement.memory},
    }
    if placement.gpus:
        resources["limits"]["nvidia.com/gpu"] = placement.gpus
    volume = {"persistentVolumeClaim": {"claimName": placement.claim}} if placement.claim else {"emptyDir": {}}
    key, _, value = placement.spot.partition("=")
    nodes = {
        "nodeSelector": {key: value},
        "tolerations": [{"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}],
    }
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 60,  # a run of all roles takes up to 35 to save
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "run",
                "image": placement.image,
                "command": ["sbrl"],
                "args": ["study", "pod", MOUNT, "--index", "$(JOB_COMPLETION_INDEX)", "--work", f"{WORK}/{name}"],
                "env": [
                    {"name": "HOME", "value": "/tmp"},
                    {"name": "OMP_WAIT_POLICY", "value": "PASSIVE"},
                ],
                "resources": resources,
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    {"name": "study", "mountPath": MOUNT, "readOnly": True},
                    {"name": "work", "mountPath": WORK},
                    {"name": "tmp", "mountPath": "/tmp"},
                ],
            }
        ],
        "volumes": [
            {"name": "study", "configMap": {"name": name}},
            {"name": "work", **volume},
            {"name": "tmp", "emptyDir": {}},
        ],
        **(nodes if placement.spot else {}),
    }
