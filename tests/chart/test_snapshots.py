"""Backups by VolumeSnapshots: one job with few rights takes them, and claims made from them fill a release.

Where a cluster is asked, it is a stand-in (tests/chart/api_server.py). tests/integration/test_snapshots.py runs the program.
"""

from __future__ import annotations

import pytest

from sbrl.backup.snapshots import make_parser
from tests.chart.api_server import api_server
from tests.chart.helm import CHART, NAMESPACE, by_name, helm, pod, pod_templates, render, template
from tests.chart.test_network import STRANGER, allows, pods_of
from tests.chart.test_render import BACKUP_CLAIM, SNAPSHOTS
from tests.chart.test_upgrade import SERVER
from tests.integration.test_snapshots import RULES

PARTS = ("learner", "replay-0", "replay-1", "coordinator")
PODS = ("sbrl-learner-0", "sbrl-replay-0", "sbrl-replay-1", "sbrl-coordinator-0")
NAME = "20251124-160000"
TAKE = "backup: {enabled: true, to: {snapshotClass: csi}}"


def claims(objects):
    """The claims that helm makes, by name."""
    return {name: manifest for (kind, name), manifest in objects.items() if kind == "PersistentVolumeClaim"}


def test_one_job_takes_all_snapshots_and_mounts_no_volume():
    objects = render(values=TAKE)
    ((name, manifest),) = [(name, one) for (kind, name), one in objects.items() if kind == "CronJob"]
    assert name == "sbrl-backup"
    assert manifest["spec"]["concurrencyPolicy"] == "Forbid"
    spec = manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert [volume["name"] for volume in spec["volumes"]] == ["tmp"]
    assert "podAffinity" not in spec.get("affinity", {})
    (only,) = spec["containers"]
    assert only["args"][0] == "snapshot"
    arguments = make_parser().parse_args(only["args"][1:])
    assert arguments.claims == list(zip(PARTS, [f"data-{name}" for name in PODS], strict=True))
    assert (arguments.release, arguments.snapshot_class, arguments.keep) == ("sbrl", "csi", 7)
    assert (arguments.job, arguments.job_uid) == ("$(JOB)", "$(JOB_UID)")
    labels = {entry["name"]: entry["valueFrom"]["fieldRef"]["fieldPath"] for entry in only["env"] if "valueFrom" in entry}
    assert labels == {
        "JOB": "metadata.labels['batch.kubernetes.io/job-name']",
        "JOB_UID": "metadata.labels['batch.kubernetes.io/controller-uid']",
    }
    # The cluster ends the pod at its own limit, and then nobody would hear why.
    assert 0 < arguments.timeout_seconds < manifest["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"]
    least = render(values="backup: {enabled: true, deadlineSeconds: 60, to: {snapshotClass: csi}}")["CronJob", "sbrl-backup"]
    assert "--timeout-seconds=30" in str(least)


def test_it_may_do_what_it_does_and_nothing_else():
    objects = render(values=TAKE)
    assert objects["Role", "sbrl.backup"]["rules"] == RULES
    binding = objects["RoleBinding", "sbrl.backup"]
    assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "sbrl.backup"}
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "sbrl.backup", "namespace": NAMESPACE}]
    users = {role for role, one in pod_templates(objects) if one["spec"]["serviceAccountName"] == "sbrl.backup"}
    assert users == {"backup"}
    for values in ("", "backup: {to: {snapshotClass: csi}}", "backup: {enabled: true, to: {claim: a}}"):
        assert ("Role", "sbrl.backup") not in render(values=values)


def test_policies_let_it_out_to_the_api_and_nobody_in():
    for values, asking in ((TAKE, {"backup", "controller"}), (SNAPSHOTS.replace("true", "false"), {"controller"})):
        objects = render(values=values)
        pods = pods_of(objects)
        for port in (443, 6443):
            assert {role for role, labels in pods.items() if allows(objects, "Egress", labels, None, port)} == asking
            assert not any(allows(objects, "Ingress", labels, STRANGER, port) for labels in pods.values())
        assert not any(allows(objects, "Egress", labels, None, 80) for labels in pods.values())


def test_it_runs_where_the_coordinator_may():
    values = f"{TAKE}\ncoordinator: {{nodeSelector: {{pool: cpu}}}}\nlearner: {{nodeSelector: {{pool: gpu}}}}"
    assert pod(render(values=values), "backup")["spec"]["nodeSelector"] == {"pool": "cpu"}


def test_a_volume_for_one_pod_can_be_snapshot():
    assert template(values=f"{TAKE}\nlearner: {{persistence: {{accessMode: ReadWriteOncePod}}}}").returncode == 0


@pytest.mark.parametrize("shards", [1, 3])
def test_claims_have_the_names_that_the_stateful_sets_look_for(shards):
    values = f"{SNAPSHOTS}\nrun: {{replay: {{num_shards: {shards}}}}}\nlearner: {{persistence: {{storageClass: fast}}}}"
    objects = render(values=values)
    looked_for = {
        f"{of_set['spec']['volumeClaimTemplates'][0]['metadata']['name']}-{name}-{ordinal}": of_set["spec"]
        for (kind, name), of_set in objects.items()
        if kind == "StatefulSet"
        for ordinal in range(of_set["spec"]["replicas"])
    }
    made = claims(objects)
    assert set(made) == set(looked_for)
    assert len(made) == shards + 2
    for name, claim in made.items():
        (like,) = looked_for[name]["volumeClaimTemplates"]
        part = name.removeprefix("data-sbrl-")
        source = claim["spec"].pop("dataSource")
        assert claim["spec"] == like["spec"]
        part = part if part.startswith("replay-") else part.removesuffix("-0")
        assert source == {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": f"older-{part}-{NAME}"}
        assert like["metadata"]["labels"].items() <= claim["metadata"]["labels"].items()
        assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    for role in ("learner", "replay", "coordinator"):
        assert "initContainers" not in pod(objects, role)["spec"]
        assert "backups" not in {volume["name"] for volume in pod(objects, role)["spec"]["volumes"]}


def test_no_claim_is_made_for_copies_or_without_a_restore():
    for values in ("", TAKE, "backup: {to: {claim: a}}\nrestore: {from: rl/older/a}"):
        assert not claims(render(values=values))


def test_two_releases_take_and_restore_their_own():
    for name, full in (("pong", "pong-sbrl"), ("sbrl", "sbrl")):
        done = helm("template", name, str(CHART), "-n", NAMESPACE, "--values", "-", values=SNAPSHOTS)
        text = str(by_name(done.stdout)["CronJob", f"{full}-backup"])
        assert f"--release={name}'" in text
        assert f"learner=data-{full}-learner-0" in text


# With a cluster


def snapshot(part, ready=True, shards="2"):
    metadata = {"name": f"older-{part}-{NAME}", "namespace": NAMESPACE, "labels": {"sbrl/shards": shards}}
    status = {"readyToUse": ready}
    return {"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": metadata, "status": status}


ROOT_CA = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-root-ca.crt", "namespace": NAMESPACE}}
WHOLE = [snapshot(part) for part in PARTS]


def claim(part, by="", **spec):
    """A claim as a cluster has it, made by the release `by`, or by a StatefulSet."""
    annotations = {"meta.helm.sh/release-name": by, "meta.helm.sh/release-namespace": NAMESPACE} if by else {}
    labels = {"app.kubernetes.io/managed-by": "Helm"} if by else {}
    metadata = {"name": f"data-{part}", "namespace": NAMESPACE, "annotations": annotations, "labels": labels}
    filled = {"accessModes": ["ReadWriteOnce"], "volumeName": "pv-1", "volumeMode": "Filesystem", **spec}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": filled}


def in_cluster(tmp_path, objects, values, *mode, binary="helm"):
    with api_server([ROOT_CA, *objects], tmp_path) as kubeconfig:
        return template(*SERVER, str(kubeconfig), *mode, values=values, binary=binary)


@pytest.mark.parametrize("binary", ["helm", "helm3"])
def test_a_whole_backup_is_restored(tmp_path, binary):
    done = in_cluster(tmp_path, WHOLE, SNAPSHOTS, binary=binary)
    assert done.returncode == 0, done.stderr
    assert claims(by_name(done.stdout)) == claims(render(values=SNAPSHOTS))


@pytest.mark.parametrize(
    ("objects", "said"),
    [
        ([snapshot(part) for part in PARTS[:-1]], f"VolumeSnapshot older-coordinator-{NAME} is not there"),
        ([*WHOLE[:1], *WHOLE[2:]], f"VolumeSnapshot older-replay-0-{NAME} is not there"),
        ([*WHOLE[1:], snapshot("learner", ready=False)], f"VolumeSnapshot older-learner-{NAME} is not ready"),
        ([snapshot(part, shards="4") for part in PARTS], "of a run with 4 shards, and run.replay.num_shards is 2: set it to 4"),
        ([snapshot(part, shards="1") for part in ("learner", "coordinator", "replay-0")], "of a run with 1 shards"),
    ],
)
def test_what_cannot_be_restored_is_refused_in_one_line(tmp_path, objects, said):
    done = in_cluster(tmp_path, objects, SNAPSHOTS)
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if "restore.from" in line]
    assert f"restore.from is rl/older/{NAME}" in line
    assert said in line


def test_a_cluster_without_snapshots_is_refused(tmp_path):
    done = in_cluster(tmp_path, [], SNAPSHOTS)
    assert done.returncode != 0
    assert "snapshot.storage.k8s.io/v1, Kind=VolumeSnapshot" in done.stderr  # helm's own words


def test_volumes_that_exist_stay_as_they_are(tmp_path):
    """Helm would refuse to install over claims that a StatefulSet has made."""
    there = [claim(name) for name in PODS]
    for mode in ((), ("--is-upgrade",)):
        done = in_cluster(tmp_path, there, SNAPSHOTS, *mode)  # the snapshots need not exist any more
        assert done.returncode == 0, done.stderr
        assert not claims(by_name(done.stdout))


@pytest.mark.parametrize(
    ("values", "mode", "binary"),
    [
        (SNAPSHOTS, "--is-upgrade", "helm"),
        (SNAPSHOTS, "--is-upgrade", "helm3"),
        (SNAPSHOTS.replace("older", "other"), "--is-upgrade", "helm"),
        ("learner: {persistence: {annotations: {a: b}}}", "--is-upgrade", "helm"),
        (BACKUP_CLAIM, "--is-upgrade=false", "helm"),  # installed again on volumes that an uninstall has kept
    ],
    ids=["kept", "kept, helm 3", "another backup", "none", "installed again"],
)
def test_claims_that_helm_made_stay_in_the_manifest_as_they_are(tmp_path, values, mode, binary):
    """Whatever restore.from is: their spec cannot change, and a rollback fails on what one manifest in between left out."""
    source = {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": f"older-learner-{NAME}"}
    grown = {"requests": {"storage": "20Gi"}}  # by kubectl patch
    spec = {"resources": grown, "storageClassName": "default", "dataSource": source, "dataSourceRef": source}
    done = in_cluster(tmp_path, [claim(name, by="sbrl", **spec) for name in PODS], values, mode, binary=binary)
    assert done.returncode == 0, done.stderr
    made = claims(by_name(done.stdout))
    assert set(made) == {f"data-{name}" for name in PODS}
    for one in made.values():
        spec = {"accessModes": ["ReadWriteOnce"], "resources": grown, "storageClassName": "default", "dataSource": source}
        assert one["spec"] == spec
        assert one["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_claims_of_another_release_are_not_taken(tmp_path):
    done = in_cluster(tmp_path, [claim(name, by="other") for name in PODS], "")
    assert done.returncode == 0, done.stderr
    assert not claims(by_name(done.stdout))
