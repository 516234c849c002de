"""The chart and every overlay render with two versions of helm to objects valid in three versions of Kubernetes."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import yaml

from tests.chart.helm import CHART, OVERLAYS, ROOT, helm, render, template

# Everything that is off by default, so that every template and every branch is rendered once.
EVERYTHING = """
commonLabels: {team: rl}
image: {repository: registry.example/sbrl, tag: "1"}
imagePullSecrets: [{name: pull}]
tls: {secretName: sbrl-tls}
serviceAccount: {annotations: {a: b}}
priorityClasses: {create: true}
networkPolicy:
  metricsFrom: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]
  apiServerTo: [{ipBlock: {cidr: 10.0.0.1/32}}]
  extraEgress: [{to: [{ipBlock: {cidr: 10.1.0.0/16}}], ports: [{port: 443, protocol: TCP}]}]
defaults:
  nodeSelector: {kubernetes.io/arch: amd64}
  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [
    {key: kubernetes.io/os, operator: In, values: [linux]}]}]}}}
  tolerations: [{key: dedicated, operator: Equal, value: rl, effect: NoSchedule}]
  runtimeClassName: gvisor
  extraEnv: [{name: A, value: "1"}]
  extraVolumes: [{name: scratch, emptyDir: {}}]
  extraVolumeMounts: [{name: scratch, mountPath: /scratch}]
  podLabels: {team: rl}
  podAnnotations: {a: b}
coordinator: {persistence: {storageClass: fast, accessMode: ReadWriteOncePod, annotations: {a: b}, whenDeleted: Delete}}
replay: {persistence: {kind: ephemeral}}
learner: {gpu: {count: 1}, priorityClassName: own}
controller: {replicas: 2}
run: {learner: {device: cuda}}
logs: {format: text, runId: pong-7}
dashboards: {labels: {grafana: mine}, annotations: {grafana_folder: SBRL}}
prometheus:
  enabled: true
  image: {digest: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}
  alertmanagers: ["alertmanager.monitoring:9093"]
  from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]
  preStopSeconds: 3
  persistence: {kind: ephemeral}
"""
HPA = "actors: {scaledBy: hpa}\nsecurity: {runAsUser: null, runAsGroup: null, fsGroup: null}"
KEDA = """
actors: {scaledBy: keda, spot: example.com/spot=true, keda: {authentication: a, triggerMetadata: {authModes: bearer}}}
kueue: {localQueue: team-a}
prometheus: {enabled: true, from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: keda}}}]}
"""
BACKUP = """
actors: {spot: example.com/spot=true}
backup:
  enabled: true
  to:
    bucket: s3://backups/team
    endpoint: https://minio.store:9000
    existingSecret: keys
    peers: [{ipBlock: {cidr: 10.0.0.1/32}}]
restore: {from: rl/older/20251124-160000}
"""
BACKUP_CLAIM = "backup: {enabled: true, to: {claim: backups}}\nrestore: {from: rl/sbrl/20251124-160000}"
SNAPSHOTS = "backup: {enabled: true, to: {snapshotClass: csi}}\nrestore: {from: rl/older/20251124-160000}"
VARIANTS = {
    "default": "",
    "everything": EVERYTHING,
    "hpa": HPA,
    "by hand": "actors: {scaledBy: hand}\nevaluator: {enabled: false}",
    "keda": KEDA,
    "backup": BACKUP,
    "backup to a claim": BACKUP_CLAIM,
    "snapshots": SNAPSHOTS,
    "operator": "metrics: {podMonitor: {create: always, labels: {a: b}}, prometheusRule: {create: always, labels: {a: b}}}",
}


def test_lint_is_clean():
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout
    assert "WARNING" not in done.stdout


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_every_overlay_is_clean(overlay):
    done = helm("lint", "--strict", str(CHART), "--values", str(overlay))
    assert done.returncode == 0, done.stdout
    assert render("--values", str(overlay))


def rendered(binary: str, values: str) -> str:
    done = template(binary=binary, values=values)
    assert done.returncode == 0, done.stderr
    return re.sub(r"^  token: .*$", "  token: generated", done.stdout, flags=re.MULTILINE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_helm_3_renders_what_helm_4_does(variant):
    assert rendered("helm3", VARIANTS[variant]) == rendered("helm", VARIANTS[variant])


def check_schemas(text):
    command = [sys.executable, str(ROOT / "scripts/kubernetes_schemas.py")]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)


def test_kubernetes_takes_what_is_rendered():
    texts = [template(values=values).stdout for values in VARIANTS.values()]
    texts += [template("--values", str(overlay)).stdout for overlay in OVERLAYS]
    done = check_schemas("\n---\n".join(texts))
    assert done.returncode == 0, done.stdout + done.stderr
    checked = re.search(r"(\d+) manifests, Kubernetes (.*): 0 errors", done.stdout)
    assert checked, done.stdout
    assert int(checked[1]) > 100
    assert len(checked[2].split(", ")) == 3


def test_the_schema_check_finds_errors():
    broken = template().stdout.replace("enableServiceLinks", "enableServiceLink", 1)
    done = check_schemas(broken)
    assert done.returncode == 1
    assert "'enableServiceLink' was unexpected" in done.stdout


def test_the_schema_check_finds_errors_in_other_kinds():
    faults = {
        "minReplicaCount": ("minReplicas", "'minReplicas' was unexpected"),
        "behavior: currentReplicasIfHigher": ("behavior: higher", "'higher' is not one of"),
        "type: Percent": ("kind: Percent", "'kind' was unexpected"),  # in a part of Kubernetes' own
        "podMetricsEndpoints": ("endpoints", "'endpoints' was unexpected"),
        "for: 5m": ("for: five minutes", "'five minutes' does not match"),
    }
    keda = template("--show-only", "templates/actors-scaledobject.yaml", values=KEDA).stdout
    text = "\n---\n".join((template(values=VARIANTS["operator"]).stdout, keda))
    for right, (wrong, _) in faults.items():
        assert right in text, right
        text = text.replace(right, wrong, 1)
    done = check_schemas("\n---\n".join((text, keda.replace("keda.sh/v1alpha1", "keda.sh/v1"))))
    assert done.returncode == 1
    for said in (*(said for _, said in faults.values()), "there is no keda.sh/v1"):
        assert said in done.stdout


def test_every_template_is_rendered_by_some_variant():
    texts = "".join(template(values=values).stdout for values in VARIANTS.values())
    seen = set(re.findall(r"^# Source: sbrl/(templates/\S+)$", texts, re.MULTILINE))
    there = {str(path.relative_to(CHART)) for path in (CHART / "templates").rglob("*.yaml")}
    assert seen == there


def test_a_release_of_another_name_says_so_everywhere():
    done = helm("template", "pong", str(CHART), "--namespace", "other")
    objects = [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]
    assert objects
    for manifest in objects:
        assert manifest["metadata"]["name"].startswith("pong-sbrl"), manifest["metadata"]
        assert manifest["metadata"]["namespace"] == "other"
        assert manifest["metadata"]["labels"]["app.kubernetes.io/instance"] == "pong"


def test_long_names_stay_within_kubernetes_limits():
    done = helm("template", "a" * 53, str(CHART))
    assert done.returncode == 0, done.stderr
    for manifest in yaml.safe_load_all(done.stdout):
        limit = 52 if manifest["kind"] == "StatefulSet" else 63
        assert len(manifest["metadata"]["name"]) <= limit, manifest["metadata"]["name"]


@pytest.mark.parametrize("binary", ["helm", "helm3"])
@pytest.mark.parametrize("values", ["token: {seed: 0123456789abcdef}", "token: {existingSecret: mine}"])
def test_a_token_that_is_given_renders_the_same_each_time(binary, values):
    """As Argo CD renders: without a cluster, again at every sync."""
    first, second = (template(binary=binary, values=values + "\npriorityClasses: {create: true}") for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    assert template(binary=binary).stdout != template(binary=binary).stdout  # one that is generated does not
