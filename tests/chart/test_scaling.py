"""Scaling of actors without the controller, the nodes that they run on, and the queue in which a release waits."""

from __future__ import annotations

import subprocess

import pytest
import yaml

from sbrl.local.prometheus import find_program
from tests.chart.helm import pod, pod_templates, render, template

FROM = "from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: keda}}}]"
KEDA = f"actors: {{scaledBy: keda, minReplicas: 2, maxReplicas: 9}}\nprometheus: {{enabled: true, {FROM}}}"
SPOT = "cloud.google.com/gke-spot"
QUEUE = "kueue.x-k8s.io/queue-name"
LABELS = 'namespace="rl",release="sbrl"'


def scaled_object(values: str = KEDA):
    return render(values=values)["ScaledObject", "sbrl-actors"]["spec"]


def test_keda_scales_the_actors_between_the_bounds_and_alone():
    objects, spec = render(values=KEDA), scaled_object()
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "sbrl-actors"}
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (2, 9)
    assert spec["fallback"] == {"failureThreshold": 3, "replicas": 1, "behavior": "currentReplicasIfHigher"}
    assert "replicas" not in objects["Deployment", "sbrl-actors"]["spec"]
    assert not {("Deployment", "sbrl-controller"), ("HorizontalPodAutoscaler", "sbrl-actors")} & set(objects)
    assert not any(kind == "ScaledObject" for kind, _ in render())


def test_keda_asks_the_releases_own_prometheus_or_another():
    (trigger,) = scaled_object()["triggers"]
    # Only values of this type have a fallback. A name in the trigger's metadata is plain text.
    assert (trigger["type"], trigger["metricType"]) == ("prometheus", "AverageValue")
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    assert trigger["metadata"]["serverAddress"] == "http://sbrl-prometheus.rl.svc.cluster.local:9090"
    settings = "{serverAddress: 'https://p:1', authentication: a, triggerMetadata: {authModes: bearer}}"
    other = f"actors: {{scaledBy: keda, keda: {settings}}}"
    (trigger,) = scaled_object(other)["triggers"]
    assert trigger["authenticationRef"] == {"name": "a"}
    assert trigger["metadata"]["serverAddress"] == "https://p:1"
    assert trigger["metadata"]["authModes"] == "bearer"


def counters(name: str, per_second: float, pods: int = 1):
    return [
        {
            "series": f'{name}{{{LABELS},waiting_for="replay",instance="{pod_number}"}}',
            "values": f"0+{per_second * 15}x80",
        }
        for pod_number in range(pods)
    ]


def state(name: str, received: int = 30_000):
    gauges = {f'sbrl_coordinator_run_state{{{LABELS},state="{one}"}}': int(one == name) for one in ("running", "collected")}
    gauges |= {f"sbrl_coordinator_transitions_received{{{LABELS}}}": received}
    gauges |= {f"sbrl_coordinator_min_replay_size{{{LABELS}}}": 20_000}
    return [{"series": series, "values": f"{value}x80"} for series, value in gauges.items()]


def actors(blocked: float, number: int = 4):
    return counters("sbrl_actor_blocked_seconds_total", blocked, number)


def learner(waits: float):
    return counters("sbrl_learner_blocked_seconds_total", waits)


# Readings, and the demand in actors at full speed; None: no answer.
SEEN = {
    "in balance": (actors(0.1) + learner(0.1) + state("running"), 4.0),
    "actors are held back": (actors(0.5) + learner(0.0) + state("running"), 2.0),
    "the learner waits": (actors(0.0) + learner(0.2) + state("running"), 5.0),
    "at most twice as many": (actors(0.0) + learner(0.95) + state("running"), 8.0),
    "the replay warms up": (actors(0.0) + learner(0.95) + state("running", received=100), 4 * 0.93),
    "the learner is away": (actors(0.9) + state("running"), 4 * 0.93),
    "all steps are collected": (actors(0.0) + learner(0.9) + state("collected"), 0.0),
    "the coordinator is away": (actors(0.0) + learner(0.9), None),
    "another release": (
        [one | {"series": one["series"].replace('"sbrl"', '"b"')} for one in actors(0) + state("running")],
        None,
    ),
}


def test_what_keda_asks_for_is_the_demand(tmp_path):
    query = scaled_object()["triggers"][0]["metadata"]["query"]
    tests = []
    for name, (series, demand) in SEEN.items():
        expected = [] if demand is None else [{"labels": "{}", "value": 1}]
        near = f"abs(({query}) - {demand or 0}) < bool 0.001"
        tests.append(
            {
                "name": name,
                "interval": "15s",
                "input_series": series,
                "promql_expr_test": [{"expr": near, "eval_time": "15m", "exp_samples": expected}],
            }
        )
    path = tmp_path / "query.yaml"
    path.write_text(yaml.safe_dump({"tests": tests}), encoding="utf-8")
    program = find_program("promtool")
    assert program, "promtool is not here: scripts/prometheus.sh fetches it"
    done = subprocess.run([program, "test", "rules", str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_actors_run_on_spot_nodes_and_nobody_else_does():
    values = f"actors: {{spot: {SPOT}=true}}\nprometheus: {{enabled: true}}"
    off = {"matchExpressions": [{"key": SPOT, "operator": "NotIn", "values": ["true"]}]}
    for role, template_ in pod_templates(render(values=values)):
        spec = template_["spec"]
        if role == "actor":
            assert spec["nodeSelector"] == {SPOT: "true"}
            assert spec["tolerations"] == [{"key": SPOT, "operator": "Equal", "value": "true"}]
            assert "affinity" not in spec
        else:
            assert SPOT not in spec.get("nodeSelector", {})
            assert "tolerations" not in spec
            required = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            assert required == {"nodeSelectorTerms": [off]}, role


def test_spot_adds_to_what_a_role_asks_for():
    values = f"""
defaults:
  nodeSelector: {{pool: rl}}
  tolerations: [{{key: a, operator: Exists}}]
  affinity:
    podAntiAffinity: {{a: b}}
    nodeAffinity:
      preferredDuringSchedulingIgnoredDuringExecution: []
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms:
          - matchExpressions: [{{key: x, operator: Exists}}]
          - matchFields: [{{key: y, operator: Exists}}]
actors: {{spot: {SPOT}=true}}
"""
    objects = render(values=values)
    actor, shard = (pod(objects, role)["spec"] for role in ("actor", "replay"))
    assert actor["nodeSelector"] == {"pool": "rl", SPOT: "true"}
    assert [one["key"] for one in actor["tolerations"]] == ["a", SPOT]
    assert shard["nodeSelector"] == {"pool": "rl"}
    assert set(shard["affinity"]) == {"podAntiAffinity", "nodeAffinity"}
    required = shard["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    # One of the terms must hold, so each must keep the shard off.
    keys = [[one["key"] for one in term["matchExpressions"]] for term in required["nodeSelectorTerms"]]
    assert keys == [["x", SPOT], [SPOT]]
    assert "matchFields" in required["nodeSelectorTerms"][1]


def test_a_queue_admits_every_pod_of_a_release():
    objects = render(values="kueue: {localQueue: team-a}\nprometheus: {enabled: true}")
    for role, template_ in pod_templates(objects):
        assert template_["metadata"]["labels"][QUEUE] == "team-a", role
    for (kind, name), manifest in objects.items():
        labelled = manifest["metadata"]["labels"].get(QUEUE) == "team-a"
        assert labelled == (kind in ("Deployment", "StatefulSet", "Pod")), name
        # A claim template or a selector with it could never change.
        spec = manifest.get("spec", {})
        assert QUEUE not in str([spec.get("selector"), spec.get("volumeClaimTemplates")])
    assert QUEUE not in str(render())


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ("actors: {scaledBy: keda}", "there is no Prometheus for it to ask: set actors.keda.serverAddress"),
        ("actors: {scaledBy: keda}\nprometheus: {enabled: true}", "keeps KEDA out of the release's Prometheus"),
        (
            f"{KEDA}\nmetrics: {{intervalSeconds: 60}}",
            "actors.keda.windowSeconds is 120, too short for what is read every 60 s",
        ),
        (KEDA.replace("maxReplicas: 9", "maxReplicas: 9, keda: {fallbackReplicas: 10}"), "fallbackReplicas is 10, above"),
        ("actors: {keda: {serverAddress: prometheus}}", "/actors/keda/serverAddress"),
        (KEDA.replace("maxReplicas: 9", "keda: {triggerMetadata: {query: up}}"), "triggerMetadata.query is the chart's own"),
        ("actors: {spot: gke-spot}", "/actors/spot"),
        (f"actors: {{spot: {SPOT}=true}}\ndefaults: {{nodeSelector: {{{SPOT}: 'true'}}}}", "the nodeSelector of coordinator"),
        (f"actors: {{spot: {SPOT}=true, nodeSelector: {{{SPOT}: 'no'}}}}", "the nodeSelector of actors"),
        ("kueue: {localQueue: Team A}", "/kueue/localQueue"),
        (
            f"kueue: {{localQueue: a}}\nlearner: {{podLabels: {{{QUEUE}: b}}}}",
            "learner.podLabels has kueue.x-k8s.io/queue-name",
        ),
    ],
)
def test_values_that_contradict_each_other_are_refused_by_name(values, named):
    done = template(values=values)
    assert done.returncode != 0
    assert named in done.stderr, done.stderr
