"""Two releases in one namespace or in two share no object, and neither selects the other's pods."""

from __future__ import annotations

import json
from functools import cache

import pytest
import yaml

from tests.chart.helm import CHART, by_name, helm, matches, pod_templates
from tests.chart.test_network import PORTS, reaches
from tests.monitoring.promql import rules

# Everything that selects pods, and cluster-wide objects.
VALUES = """
priorityClasses: {create: true}
prometheus: {enabled: true}
metrics: {podMonitor: {create: always}, prometheusRule: {create: always}}
backup: {enabled: true, to: {bucket: "s3://backups", existingSecret: keys}}
"""
OF_CLUSTER = {"PriorityClass", "ClusterRole", "ClusterRoleBinding"}
# Pairs of (namespace, release); the names are those that could be mistaken for each other's.
PAIRS = [
    (("rl", "pong"), ("rl", "breakout")),
    (("rl", "sbrl"), ("rl", "sbrl-learner")),
    (("rl", "sbrl"), ("rl", "sbrl-prometheus")),
    (("rl", "pong"), ("rl", "pong-sbrl")),
    (("team-a", "sbrl"), ("team-b", "sbrl")),
    (("a", "b-sbrl"), ("a-b", "sbrl")),
]
pairs = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: " and ".join("/".join(one) for one in pair))


@cache
def release(namespace, name):
    done = helm("template", name, str(CHART), "-n", namespace, "--values", "-", values=VALUES)
    assert done.returncode == 0, done.stderr
    return by_name(done.stdout)


def selectors(objects):
    """(what, label selector) of everything that selects pods in its namespace."""
    for (kind, name), manifest in objects.items():
        spec = manifest.get("spec", {})
        if kind in ("Deployment", "StatefulSet", "PodDisruptionBudget", "PodMonitor"):
            yield (kind, name), spec["selector"]
        elif kind == "Service":
            yield (kind, name), {"matchLabels": spec["selector"]}
        elif kind == "NetworkPolicy":
            yield (kind, name), spec["podSelector"]
            for peers in (
                rule.get(side, [])
                for side in ("from", "to")
                for rule in spec.get(f"{'in' if side == 'from' else 'e'}gress", [])
            ):
                for peer in peers:
                    yield (kind, name), peer["podSelector"]
        if kind == "ConfigMap" and name.endswith("-prometheus"):
            (scrape,) = yaml.safe_load(manifest["data"]["prometheus.yaml"])["scrape_configs"]
            (discovery,) = scrape["kubernetes_sd_configs"]
            assert discovery["namespaces"] == {"names": [manifest["metadata"]["namespace"]]}
            labels = dict(part.split("=") for part in discovery["selectors"][0]["label"].split(","))
            yield (kind, name), {"matchLabels": labels}


def affinities(objects):
    """(what, label selector) that place pods beside or away from others."""
    for role, pod in pod_templates(objects):
        spec = pod["spec"]
        terms = spec.get("affinity", {}).get("podAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", [])
        for term in (*terms, *spec.get("topologySpreadConstraints", [])):
            yield role, term["labelSelector"]


@pairs
def test_no_two_objects_have_one_name(pair):
    one, other = (
        {(kind, None if kind in OF_CLUSTER else namespace, name) for kind, name in release(namespace, of)}
        for namespace, of in pair
    )
    assert one
    assert not one & other
    assert {kind for kind, namespace, _ in one if namespace is None} == {"PriorityClass"}


@pairs
def test_nothing_selects_anothers_pods(pair):
    for (namespace, mine), (other_namespace, others) in (pair, pair[::-1]):
        found = [*selectors(release(namespace, mine)), *affinities(release(namespace, mine))]
        assert {what[0] for what, _ in found if isinstance(what, tuple)} == {
            *("Deployment", "StatefulSet", "PodDisruptionBudget", "PodMonitor", "Service", "NetworkPolicy", "ConfigMap")
        }
        for what, selector in found:
            assert selector, what  # an empty one selects all
            own = [
                role for role, pod in pod_templates(release(namespace, mine)) if matches(selector, pod["metadata"]["labels"])
            ]
            assert own or "statefulset.kubernetes.io/pod-name" in str(selector), what
            if namespace == other_namespace:
                for role, pod in pod_templates(release(other_namespace, others)):
                    assert not matches(selector, pod["metadata"]["labels"]), (what, role)


@pairs
def test_no_pod_reaches_anothers(pair):
    """In one namespace. Across namespaces, a peer without a namespaceSelector never matches another release's pod."""
    (namespace, mine), (other_namespace, others) = pair
    objects = {**release(namespace, mine), **release(other_namespace, others)}
    if namespace != other_namespace:
        text = json.dumps([manifest for (kind, _), manifest in objects.items() if kind == "NetworkPolicy"])
        assert "namespaceSelector" not in text
        return
    targets = dict(pod_templates(release(other_namespace, others)))
    for role, pod in pod_templates(release(namespace, mine)):
        for other_role, target in targets.items():
            for port in (*PORTS.values(), 9090):
                labels = pod["metadata"]["labels"], target["metadata"]["labels"]
                assert not reaches(objects, *labels, port), (role, other_role, port)


@pairs
def test_tokens_of_one_seed_and_places_of_backups_differ(pair):
    tokens, places = set(), set()
    for namespace, name in pair:
        done = helm(
            "template",
            name,
            str(CHART),
            "-n",
            namespace,
            "--values",
            "-",
            values=f"{VALUES}\ntoken: {{seed: 0123456789abcdef}}",
        )
        objects = by_name(done.stdout)
        tokens |= {manifest["data"]["token"] for (kind, _), manifest in objects.items() if kind == "Secret"}
        places |= {
            manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["args"][2]
            for (kind, _), manifest in objects.items()
            if kind == "CronJob"
        }
    assert len(tokens) == 2
    assert places == {f"s3://backups/{namespace}/{name}" for namespace, name in pair}


def test_every_dashboard_is_of_a_release_that_is_chosen():
    """tests/monitoring/test_dashboards.py holds every query to both."""
    for path in sorted((CHART / "dashboards").glob("*.json")):
        variables = {variable["name"] for variable in json.loads(path.read_text(encoding="utf-8"))["templating"]["list"]}
        assert {"namespace", "release"} <= variables, path.name


def test_every_alert_says_whose_it_is():
    for rule in rules():
        if rule.is_alert:
            assert "$labels.release" in str(rule.body["annotations"]), rule.name
