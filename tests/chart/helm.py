"""Runs the real helm on the chart, and finds objects in its output."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART, TOOLS = ROOT / "deploy", ROOT / ".venv/tools"
OVERLAYS = sorted((ROOT / "helm").glob("*.yaml"))
NAMESPACE = "rl"
# The roles, each with the object that makes its pods.
WORKLOADS = {
    "coordinator": ("StatefulSet", "sbrl-coordinator"),
    "replay": ("StatefulSet", "sbrl-replay"),
    "learner": ("StatefulSet", "sbrl-learner"),
    "actor": ("Deployment", "sbrl-actors"),
    "evaluator": ("Deployment", "sbrl-evaluator"),
    "controller": ("Deployment", "sbrl-controller"),
}

Manifest = dict[str, Any]


def helm(*arguments: str, binary: str = "helm", values: str = "") -> subprocess.CompletedProcess[str]:
    """Runs helm. `values` is the input for `--values -`."""
    command = [str(TOOLS / "bin" / binary), *arguments]
    return subprocess.run(command, input=values, capture_output=True, text=True, timeout=60, check=False)


def template(*arguments: str, binary: str = "helm", values: str = "") -> subprocess.CompletedProcess[str]:
    """Runs `helm template` for a release called sbrl."""
    more = ["--values", "-"] if values else []
    return helm("template", "sbrl", str(CHART), "--namespace", NAMESPACE, *more, *arguments, binary=binary, values=values)


@cache
def render(*arguments: str, values: str = "") -> dict[tuple[str, str], Manifest]:
    """Every object that the chart renders, by kind and name."""
    done = template(*arguments, values=values)
    assert done.returncode == 0, done.stderr
    return by_name(done.stdout)


def by_name(text: str) -> dict[tuple[str, str], Manifest]:
    objects = [manifest for manifest in yaml.load_all(text, yaml.CSafeLoader) if manifest]
    found = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in objects}
    assert len(found) == len(objects), "two objects of one kind have one name"
    return found


def pod_templates(objects: dict[tuple[str, str], Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Every pod that the objects make, as (role, {metadata, spec}). The pod of `helm test` is called check."""
    for (kind, _), manifest in objects.items():
        if kind in ("Deployment", "StatefulSet"):
            pod = manifest["spec"]["template"]
            yield pod["metadata"]["labels"]["app.kubernetes.io/component"], pod
        elif kind == "CronJob":
            pod = manifest["spec"]["jobTemplate"]["spec"]["template"]
            yield pod["metadata"]["labels"]["app.kubernetes.io/component"], pod
        elif kind == "Pod":
            yield "check", manifest


def pod(objects: dict[tuple[str, str], Manifest], role: str) -> Manifest:
    return dict(pod_templates(objects))[role]


def container(objects: dict[tuple[str, str], Manifest], role: str) -> Manifest:
    (only,) = pod(objects, role)["spec"]["containers"]
    return dict(only)


def matches(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a label selector selects these labels."""
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In", expression
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
