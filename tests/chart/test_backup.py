"""Backups of a release: which pod copies which volume where and when, and which fill empty ones from a backup."""

from __future__ import annotations

import pytest

from sbrl.backup.__main__ import make_parser
from tests.chart.helm import CHART, by_name, container, helm, matches, pod, render
from tests.chart.test_network import STRANGER, allows, pods_of
from tests.chart.test_render import BACKUP, BACKUP_CLAIM

PARTS = ("learner", "replay-0", "replay-1", "coordinator")
VOLUMES = {
    "learner": "sbrl-learner-0",
    "replay-0": "sbrl-replay-0",
    "replay-1": "sbrl-replay-1",
    "coordinator": "sbrl-coordinator-0",
}
both = pytest.mark.parametrize(
    ("values", "place"), [(BACKUP, "s3://backups/team/"), (BACKUP_CLAIM, "/backups/")], ids=["bucket", "claim"]
)


def jobs(objects):
    """The pod of each part's CronJob."""
    return {
        manifest["metadata"]["labels"]["sbrl/part"]: manifest["spec"]["jobTemplate"]["spec"]["template"]
        for (kind, _), manifest in objects.items()
        if kind == "CronJob"
    }


def test_there_are_none_by_default():
    assert not jobs(render())
    assert "initContainers" not in pod(render(), "learner")["spec"]


@both
def test_every_volume_is_copied_on_the_node_where_it_is(values, place):
    objects = render(values=values)
    assert tuple(jobs(objects)) == PARTS
    for part, found in jobs(objects).items():
        spec = found["spec"]
        (term,) = spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert term["topologyKey"] == "kubernetes.io/hostname"
        assert term["labelSelector"] == {"matchLabels": {"statefulset.kubernetes.io/pod-name": VOLUMES[part]}}
        (data,) = (volume for volume in spec["volumes"] if volume["name"] == "data")
        assert data["persistentVolumeClaim"] == {"claimName": f"data-{VOLUMES[part]}"}
        # The claim from the StatefulSet's template, to which the pod named here writes.
        workload, _, ordinal = VOLUMES[part].rpartition("-")
        of_set = objects["StatefulSet", workload]["spec"]
        assert int(ordinal) < of_set["replicas"]
        assert of_set["volumeClaimTemplates"][0]["metadata"]["name"] == "data"
        (only,) = spec["containers"]
        assert {"name": "data", "mountPath": "/data", "readOnly": True} in only["volumeMounts"]


@both
def test_all_parts_make_one_backup_with_arguments_that_are_known(values, place):
    parsed = {
        part: make_parser().parse_args(found["spec"]["containers"][0]["args"][1:])
        for part, found in jobs(render(values=values)).items()
    }
    for part, arguments in parsed.items():
        assert (arguments.part, str(arguments.run_dir), arguments.to) == (part, "/data", f"{place}rl/sbrl")
        assert (arguments.job, arguments.run_id) == ("$(JOB)", "rl/sbrl")
    assert all(arguments.after is None for part, arguments in parsed.items() if part != "coordinator")
    last = parsed["coordinator"]
    assert (last.after, last.keep, str(last.config)) == (list(PARTS[:-1]), 7, "/etc/sbrl/config/run.yaml")
    manifest = render(values=values)["CronJob", "sbrl-backup-coordinator"]["spec"]
    assert last.timeout_seconds == manifest["jobTemplate"]["spec"]["activeDeadlineSeconds"]
    assert manifest["concurrencyPolicy"] == "Forbid"


@both
@pytest.mark.parametrize("role", ["learner", "replay", "coordinator"])
def test_an_empty_volume_is_filled_before_its_role_starts(values, place, role):
    spec = pod(render(values=values), role)["spec"]
    (first,) = spec["initContainers"]
    assert first["image"] == spec["containers"][0]["image"]
    part = {"replay": "replay-$(SHARD)"}.get(role, role)
    name = "rl/older/20251124-160000" if "s3" in place else "rl/sbrl/20251124-160000"
    assert first["args"] == ["restore", f"{place}{name}", "/data", f"--part={part}", "--shards=2", "--if-empty"]
    assert ("SHARD" in {entry["name"] for entry in first["env"]}) == (role == "replay")
    mounted = {mount["name"] for mount in first["volumeMounts"]}
    assert mounted == {"data", "tmp"} | (set() if "s3" in place else {"backups"})


def test_actors_and_others_restore_nothing():
    for role in ("actor", "evaluator", "controller"):
        assert "initContainers" not in pod(render(values=BACKUP), role)["spec"]


def test_keys_reach_those_who_ask_the_bucket_and_nobody_else():
    objects = render(values=BACKUP)
    asking = [found["spec"]["containers"][0] for found in jobs(objects).values()]
    asking += [pod(objects, role)["spec"]["initContainers"][0] for role in ("learner", "replay", "coordinator")]
    for one in asking:
        assert one["envFrom"] == [{"secretRef": {"name": "keys"}}]
        environment = {entry["name"]: entry.get("value") for entry in one["env"]}
        assert environment["AWS_ENDPOINT_URL"] == "https://minio.store:9000"
    for role in ("learner", "replay", "coordinator", "actor"):
        assert "envFrom" not in container(objects, role)


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [
        ("", 443),
        ("https://s3.example", 443),
        ("http://minio", 80),
        ("http://minio.store:9000", 9000),
        ("https://[fd00::1]:9443", 9443),
    ],
)
def test_policies_let_backups_out_at_the_buckets_port(endpoint, port):
    to = f'{{bucket: "s3://backups", existingSecret: keys, endpoint: "{endpoint}"}}'
    for values, roles in (
        (f"backup: {{enabled: true, to: {to}}}", {"backup"}),
        (f"backup: {{to: {to}}}\nrestore: {{from: rl/sbrl/a}}", {"coordinator", "replay", "learner"}),
    ):
        objects = render(values=values)
        pods = pods_of(objects)
        assert {role for role, labels in pods.items() if allows(objects, "Egress", labels, None, port)} - {
            "controller"
        } == roles
        assert not any(allows(objects, "Egress", labels, None, 8080) for labels in pods.values())
        assert not any(allows(objects, "Ingress", labels, STRANGER, port) for labels in pods.values())


def test_backups_run_where_their_roles_run():
    values = f"{BACKUP}\nlearner: {{tolerations: [{{key: gpu, operator: Exists}}], nodeSelector: {{pool: gpu}}}}"
    found = jobs(render(values=values))
    assert found["learner"]["spec"]["nodeSelector"] == {"pool": "gpu"}
    assert found["learner"]["spec"]["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert "tolerations" not in found["coordinator"]["spec"]
    (term,) = found["coordinator"]["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert term["matchExpressions"] == [{"key": "example.com/spot", "operator": "NotIn", "values": ["true"]}]


def test_no_service_or_budget_takes_a_backups_pod_for_a_roles():
    objects = render(values=BACKUP)
    labels = jobs(objects)["learner"]["metadata"]["labels"]
    for (kind, name), manifest in objects.items():
        if kind in ("Deployment", "StatefulSet", "PodDisruptionBudget"):
            assert not matches(manifest["spec"]["selector"], labels), name
        if kind == "Service":
            assert not matches({"matchLabels": manifest["spec"]["selector"]}, labels), name


def test_long_names_stay_apart_and_within_a_jobs():
    """A CronJob's name may have 52 characters, because its Jobs' names have eleven more."""
    done = helm("template", "a" * 53, str(CHART), "--set", "backup.enabled=true,backup.to.claim=b,run.replay.num_shards=16")
    assert done.returncode == 0, done.stderr
    names = [name for kind, name in by_name(done.stdout) if kind == "CronJob"]
    assert len(set(names)) == 18
    assert max(map(len, names)) <= 52
