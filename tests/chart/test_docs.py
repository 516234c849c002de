"""The promises of docs/deploy.md and of the notes after an install."""

from __future__ import annotations

import re

import pytest

from sbrl.cli.programs import PROGRAMS
from tests.chart.helm import CHART, NAMESPACE, ROOT, container, helm, pod_templates, render
from tests.chart.test_render import HPA

DOCS = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
UNITS = {"m": 0.001, "Mi": 1 / 1024, "Gi": 1.0}


def number(quantity):
    """Cores, or GiB."""
    found = re.fullmatch(r"([\d.]+)(m|Mi|Gi)?", str(quantity))
    assert found, quantity
    return float(found[1]) * UNITS.get(found[2], 1.0)


def requested(objects, resource, actors):
    counts = {"actor": actors, "check": 0}
    for (kind, _), manifest in objects.items():
        if kind in ("StatefulSet", "Deployment") and "replicas" in manifest["spec"]:
            counts.setdefault(manifest["metadata"]["labels"]["app.kubernetes.io/component"], manifest["spec"]["replicas"])
    return sum(
        counts.get(role, 1) * number(container(objects, role)["resources"]["requests"][resource])
        for role, _ in pod_templates(objects)
    )


def claimed(objects):
    sets = [manifest["spec"] for (kind, _), manifest in objects.items() if kind == "StatefulSet"]
    return sum(
        one["replicas"] * number(one["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"]) for one in sets
    )


@pytest.mark.parametrize("name", ["helm/laptop.yaml", "values.yaml", "helm/gpu-node.yaml", "helm/large.yaml"])
def test_the_sizing_table_adds_up(name):
    row = next(line for line in DOCS.splitlines() if line.startswith(f"| `{name}` |"))
    _, actors, cpu, memory, disk, _ = (cell.strip() for cell in row.strip("|").split("|"))
    objects = render(*(("--values", str(ROOT / name)) if name != "values.yaml" else ()))
    fewest, most = map(int, actors.split(" to "))
    assert [float(value) for value in cpu.split(" to ")] == pytest.approx(
        [requested(objects, "cpu", n) for n in (fewest, most)]
    )
    sizes = [float(value) for value in memory.removesuffix(" GiB").split(" to ")]
    assert sizes == pytest.approx([requested(objects, "memory", n) for n in (fewest, most)])
    assert float(disk.removesuffix(" GiB")) == claimed(objects)
    if name != "helm/laptop.yaml":  # scaled by hand
        arguments = container(objects, "controller")["args"]
        assert {f"--min-actors={fewest}", f"--max-actors={most}"} <= set(arguments)


def notes(values=""):
    done = helm("install", "sbrl", str(CHART), "-n", NAMESPACE, "--dry-run=client", "--values", "-", values=values or "{}")
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("NOTES:")[2]


def test_helm_waits_longer_than_its_test():
    """helm gives up after five minutes, unless told otherwise."""
    assert "test sbrl --logs --timeout 660s" in notes()
    assert "test sbrl --logs --timeout 960s" in notes("check: {timeoutSeconds: 900}")


def test_the_notes_name_objects_that_there_are():
    text, objects = notes(), render()
    assert ("ConfigMap", "sbrl-run") in objects
    assert "get configmap sbrl-run" in text
    for pod in ("sbrl-learner-0", "sbrl-coordinator-0"):
        assert pod in text
        assert ("StatefulSet", pod.removesuffix("-0")) in objects
    assert "deployment/sbrl-actors" in text
    assert "results.py" in objects["ConfigMap", "sbrl-tools"]["data"]
    assert "WARNING" not in text


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (HPA, "HorizontalPodAutoscaler sbrl-actors keeps 1 to 16"),
        ("actors: {scaledBy: hand}", "--set actors.replicas=N"),
        ("networkPolicy: {enabled: false}", "WARNING: networkPolicy.enabled is false"),
        ("learner: {gpu: {count: 1}}", "WARNING: learner.gpu.count is 1, but run.learner.device is cpu"),
        ("run: {learner: {device: cuda}}", "WARNING: run.learner.device is cuda, but learner.gpu.count is 0"),
        ("replay: {persistence: {kind: ephemeral}}", "but replay's are ephemeral"),
    ],
)
def test_the_notes_follow_the_values(values, said):
    assert said in notes(values)


def test_the_commands_are_commands_of_sbrl():
    named = set(re.findall(r"\bsbrl (status|scale|eval|play|train|config)\b", DOCS + notes()))
    roles = {role for role, _ in pod_templates(render())} - {"check"}
    assert {"status", "scale"} <= named
    assert (named | roles) - {"train", "config"} <= set(PROGRAMS)


@pytest.mark.parametrize("values", ["token: {seed: 0123456789abcdef}", "token: {existingSecret: mine}"])
def test_the_notes_warn_of_a_token_that_changes_and_of_no_other(values):
    warned = "make another one each time they render: set token.seed or token.existingSecret"
    assert warned in notes()
    assert "they render" not in notes(values)
