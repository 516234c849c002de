"""Which pods the NetworkPolicies let reach which, as a network plug-in decides, for every pair and every port."""

from __future__ import annotations

import pytest

from tests.chart.helm import WORKLOADS, matches, pod_templates, render

PORTS = {"coordinator": 7001, "replay": 7002, "health": 7003, "metrics": 7004}
RELEASE = {"app.kubernetes.io/name": "sbrl", "app.kubernetes.io/instance": "sbrl"}
# Pods outside the release: a stranger's, another release's learner, and Prometheus.
STRANGER = {"app": "stranger"}
OTHER_RELEASE = {**RELEASE, "app.kubernetes.io/instance": "other", "app.kubernetes.io/component": "learner"}
PROMETHEUS = {"app": "prometheus"}
MONITORING = """
networkPolicy: {metricsFrom: [{podSelector: {matchLabels: {app: prometheus}}}]}
"""


def allows(objects, direction, here, peer, port):
    """Whether the policies that select a pod with labels `here` let it exchange with `peer` (None: an address outside)."""
    side = "from" if direction == "Ingress" else "to"
    policies = [
        manifest["spec"]
        for (kind, _), manifest in objects.items()
        if kind == "NetworkPolicy"
        and matches(manifest["spec"]["podSelector"], here)
        and direction in manifest["spec"]["policyTypes"]
    ]
    if not policies:
        return True  # a pod that no policy selects is open
    for policy in policies:
        for rule in policy.get(direction.lower(), []):
            ports = [entry["port"] for entry in rule.get("ports", [])]
            peers = rule.get(side)
            if (not ports or port in ports) and (
                peers is None or (peer is not None and any(matches(entry["podSelector"], peer) for entry in peers))
            ):
                return True
    return False


def reaches(objects, source, target, port):
    """Both sides must agree: the source's egress and the target's ingress."""
    return allows(objects, "Egress", source, target, port) and allows(objects, "Ingress", target, source, port)


def pods_of(objects):
    return {role: pod["metadata"]["labels"] for role, pod in pod_templates(objects)}


def test_roles_reach_what_they_need_and_nothing_else():
    objects = render()
    pods = pods_of(objects)
    needed = {(role, "coordinator", PORTS["coordinator"]) for role in (*WORKLOADS, "check") if role != "coordinator"}
    needed |= {(role, "replay", PORTS["replay"]) for role in ("actor", "learner")}
    possible = {
        (source, target, port)
        for source in pods
        for target in pods
        for port in (*PORTS.values(), 22, 8080)
        if source != target and reaches(objects, pods[source], pods[target], port)
    }
    assert possible == needed


@pytest.mark.parametrize("stranger", [STRANGER, OTHER_RELEASE, None], ids=["stranger", "other release", "outside"])
def test_strangers_reach_no_port(stranger):
    objects = render()
    for role, labels in pods_of(objects).items():
        for port in PORTS.values():
            assert not allows(objects, "Ingress", labels, stranger, port), (role, port)


def test_metrics_open_to_whom_they_are_opened_to():
    objects = render(values=MONITORING)
    for labels in pods_of(objects).values():
        assert allows(objects, "Ingress", labels, PROMETHEUS, PORTS["metrics"])
        assert not allows(objects, "Ingress", labels, STRANGER, PORTS["metrics"])
        for port in (PORTS["coordinator"], PORTS["replay"], PORTS["health"]):
            assert not allows(objects, "Ingress", labels, PROMETHEUS, port)
    assert not any(allows(render(), "Ingress", labels, PROMETHEUS, PORTS["metrics"]) for labels in pods_of(render()).values())


def test_outside_the_release_pods_reach_names_and_the_controller_the_api():
    objects = render()
    for role, labels in pods_of(objects).items():
        assert allows(objects, "Egress", labels, None, 53), role
        for port in (443, 6443, 8443):
            assert allows(objects, "Egress", labels, None, port) == (role == "controller"), role
        assert not allows(objects, "Egress", labels, None, 80)


def test_policies_can_be_left_out():
    assert not any(kind == "NetworkPolicy" for kind, _ in render(values="networkPolicy: {enabled: false}"))
