"""Important properties of the rendered objects: selectors, one learner, probes, confinement, rights."""

from __future__ import annotations

import argparse

import pytest

from sbrl.rpc.health import LIVENESS
from sbrl.runtime.lifecycle import role_arguments
from services.controller.__main__ import make_parser, make_spec
from services.controller.reconcile import ScalingSpec
from tests.chart.helm import NAMESPACE, OVERLAYS, WORKLOADS, by_name, container, matches, pod, pod_templates, render, template
from tests.chart.test_render import BACKUP, BACKUP_CLAIM, EVERYTHING, HPA, SNAPSHOTS

ROLES = tuple(WORKLOADS)
ALL = (
    [((), "")]
    + [(("--values", str(path)), "") for path in OVERLAYS]
    + [((), EVERYTHING), ((), HPA), ((), BACKUP), ((), BACKUP_CLAIM), ((), SNAPSHOTS)]
)
every = pytest.mark.parametrize(
    ("arguments", "values"),
    ALL,
    ids=["default", *[p.stem for p in OVERLAYS], "everything", "hpa", "backup", "backup to a claim", "snapshots"],
)


def labels(objects, role):
    return pod(objects, role)["metadata"]["labels"]


@every
def test_selectors_match_the_pods_of_their_role_and_no_others(arguments, values):
    objects = render(*arguments, values=values)
    pods = dict(pod_templates(objects))
    for (kind, name), manifest in objects.items():
        if kind in ("Deployment", "StatefulSet", "PodDisruptionBudget"):
            selector = manifest["spec"]["selector"]
        elif kind == "Service":
            selector = {"matchLabels": manifest["spec"]["selector"]}
        else:
            continue
        selected = [role for role, pod in pods.items() if matches(selector, pod["metadata"]["labels"])]
        assert selected == [manifest["metadata"]["labels"]["app.kubernetes.io/component"]], (kind, name)


@every
def test_service_ports_are_ports_of_their_pods(arguments, values):
    objects = render(*arguments, values=values)
    for (kind, name), service in objects.items():
        if kind == "Service":
            role = service["metadata"]["labels"]["app.kubernetes.io/component"]
            named = {port["name"]: port["containerPort"] for port in container(objects, role)["ports"]}
            for port in service["spec"]["ports"]:
                # Equal, because a headless Service does not translate ports.
                assert named[port["targetPort"]] == port["port"], name


def test_shards_are_a_stateful_set_with_names_of_their_own():
    objects = render(values="run: {replay: {num_shards: 3}}")
    shards, service = objects["StatefulSet", "sbrl-replay"]["spec"], objects["Service", "sbrl-replay"]["spec"]
    assert shards["replicas"] == 3
    assert shards["serviceName"] == "sbrl-replay"
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is True
    (claim,) = shards["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "data"
    # The claim template cannot change, so nothing in it may depend on the chart's version.
    assert set(claim["metadata"]["labels"]) == set(shards["selector"]["matchLabels"])
    environment = {entry["name"]: entry for entry in container(objects, "replay")["env"]}
    assert environment["SHARD"]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['apps.kubernetes.io/pod-index']"
    assert "--shard=$(SHARD)" in container(objects, "replay")["args"]


def test_names_hold_while_their_pods_start_and_end():
    for name in ("sbrl-coordinator", "sbrl-replay"):
        assert render()["Service", name]["spec"]["publishNotReadyAddresses"] is True


@every
def test_there_is_one_learner_and_one_coordinator(arguments, values):
    objects = render(*arguments, values=values)
    for role in ("learner", "coordinator"):
        assert objects["StatefulSet", f"sbrl-{role}"]["spec"]["replicas"] == 1
        assert ("HorizontalPodAutoscaler", f"sbrl-{role}") not in objects
    assert objects["Deployment", "sbrl-evaluator"]["spec"]["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize("kind", ["persistent", "ephemeral"])
@pytest.mark.parametrize("role", ["coordinator", "replay", "learner"])
def test_storage_is_mounted_where_the_role_writes(role, kind):
    objects = render(values=f"{role}: {{persistence: {{kind: {kind}}}}}")
    spec = objects["StatefulSet", f"sbrl-{role}"]["spec"]
    assert {"name": "data", "mountPath": "/data"} in container(objects, role)["volumeMounts"]
    assert "--run-dir=/data" in container(objects, role)["args"]
    volumes = {volume["name"]: volume for volume in pod(objects, role)["spec"]["volumes"]}
    if kind == "persistent":
        assert spec["volumeClaimTemplates"][0]["spec"]["accessModes"] == ["ReadWriteOnce"]
        assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
        assert "data" not in volumes
    else:
        assert "volumeClaimTemplates" not in spec
        assert "emptyDir" in volumes["data"]


def test_the_gpu_is_the_learners_alone():
    objects = render(values=EVERYTHING)
    assert container(objects, "learner")["resources"]["limits"] == {"memory": "12Gi", "nvidia.com/gpu": 1}
    for role in ROLES:
        if role != "learner":
            assert "nvidia.com/gpu" not in container(objects, role)["resources"]["limits"]
    assert container(render(), "learner")["resources"]["limits"] == {"memory": "12Gi"}


@every
def test_roles_are_started_with_arguments_that_they_know(arguments, values):
    objects = render(*arguments, values=values)
    for role, pod_template in pod_templates(objects):
        if role not in ROLES:
            continue
        (only,) = pod_template["spec"]["containers"]
        assert "command" not in only  # the image's entry point
        assert only["args"][0] == role
        parser = make_parser() if role == "controller" else role_arguments(role, "")
        if role == "replay":
            parser.add_argument("--shard")
        parsed, unknown = parser.parse_known_args(only["args"][1:])
        assert not unknown
        assert str(parsed.config) == "/etc/sbrl/config/run.yaml"
        assert parsed.name == "$(POD_NAME)"
        # Kubernetes would start an actor, a learner or an evaluator that has ended again and again.
        assert parsed.stay == (role in ("actor", "learner", "evaluator"))


def controller_arguments(**values: object) -> argparse.Namespace:
    settings = "\n".join(f"{name}: {value}" for name, value in values.items())
    return make_parser().parse_args(container(render(values=settings), "controller")["args"][1:])


def test_the_controller_is_told_the_bounds_and_its_settings():
    arguments = controller_arguments(
        actors="{minReplicas: 2, maxReplicas: 9}", controller="{targetLoad: 0.9, settleSeconds: 30}"
    )
    assert make_spec(arguments) == ScalingSpec(min_actors=2, max_actors=9, target_load=0.9, settle_seconds=30.0)
    assert arguments.deployment == "sbrl-actors"
    assert arguments.lease is None
    assert not arguments.dry_run
    assert controller_arguments(controller="{replicas: 2}").lease == "sbrl-controller"
    assert controller_arguments(controller="{dryRun: true}").dry_run


def test_who_scales_the_actors():
    by_hand, hpa, controller = (
        render(values=f"actors: {{scaledBy: {how}, replicas: 5}}") for how in ("hand", "hpa", "controller")
    )
    assert by_hand["Deployment", "sbrl-actors"]["spec"]["replicas"] == 5
    for objects in (hpa, controller):  # an upgrade must not reset a number that something else has set
        assert "replicas" not in objects["Deployment", "sbrl-actors"]["spec"]
    scaler = hpa["HorizontalPodAutoscaler", "sbrl-actors"]["spec"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "sbrl-actors"}
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (1, 16)
    for objects, kinds in ((by_hand, 0), (hpa, 0), (controller, 1)):
        assert sum(kind in ("Role", "RoleBinding") for kind, _ in objects) == 2 * kinds
        assert (("Deployment", "sbrl-controller") in objects) == bool(kinds)
        assert (("ServiceAccount", "sbrl-controller") in objects) == bool(kinds)


def rights(objects):
    found = set()
    for rule in objects["Role", "sbrl-controller"]["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    found |= {(group, resource, verb, name) for name in rule.get("resourceNames", ["any"])}
    return found


def test_the_controller_may_do_what_it_does_and_nothing_else():
    alone = {
        ("apps", "deployments/scale", "get", "sbrl-actors"),
        ("apps", "deployments/scale", "patch", "sbrl-actors"),
        ("", "events", "create", "any"),
    }
    lease = {
        ("coordination.k8s.io", "leases", "get", "sbrl-controller"),
        ("coordination.k8s.io", "leases", "update", "sbrl-controller"),
        ("coordination.k8s.io", "leases", "create", "any"),
    }
    assert rights(render()) == alone
    assert rights(render(values="controller: {replicas: 2}")) == alone | lease
    assert rights(render(values="controller: {dryRun: true}")) == {("apps", "deployments/scale", "get", "sbrl-actors")}
    binding = render()["RoleBinding", "sbrl-controller"]
    assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "sbrl-controller"}
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "sbrl-controller", "namespace": NAMESPACE}]
    assert not any(kind.startswith("Cluster") for kind, _ in render(values=EVERYTHING))


@every
def test_only_those_who_ask_the_api_get_a_token_of_it(arguments, values):
    objects = render(*arguments, values=values)
    for role, pod_template in pod_templates(objects):
        spec = pod_template["spec"]
        asks = role in ("controller", "prometheus") or (role == "backup" and values == SNAPSHOTS)
        assert spec["automountServiceAccountToken"] == asks, role
        assert spec["serviceAccountName"] == ((f"sbrl.{role}" if role == "backup" else f"sbrl-{role}") if asks else "sbrl")
        assert ("ServiceAccount", spec["serviceAccountName"]) in objects
    for (kind, _), manifest in objects.items():
        if kind == "ServiceAccount":
            assert manifest["automountServiceAccountToken"] is False


@every
def test_pods_pass_the_restricted_security_standard(arguments, values):
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted, and a read-only root."""
    for role, pod_template in pod_templates(render(*arguments, values=values)):
        spec = pod_template["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), role
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"].get("runAsUser", 1) != 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert set(spec["securityContext"]) <= {
            *("runAsNonRoot", "runAsUser", "runAsGroup", "fsGroup", "fsGroupChangePolicy", "seccompProfile")
        }
        for only in (*spec["containers"], *spec.get("initContainers", [])):
            assert only["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert not any("hostPort" in port for port in only.get("ports", []))
        allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
        for volume in spec["volumes"]:
            assert set(volume) - {"name"} <= allowed, volume


@every
def test_every_mount_has_its_volume_and_tmp_can_be_written(arguments, values):
    objects = render(*arguments, values=values)
    for role, pod_template in pod_templates(objects):
        (only,) = pod_template["spec"]["containers"]
        mounts = {
            mount["name"]: mount
            for one in (*pod_template["spec"].get("initContainers", []), only)
            for mount in one["volumeMounts"]
        }
        volumes = {volume["name"]: volume for volume in pod_template["spec"]["volumes"]}
        claims = {"data"} if role in ("coordinator", "replay", "learner") else set()
        assert set(volumes) <= set(mounts) <= set(volumes) | claims, role
        assert "emptyDir" in volumes["tmp"]
        assert mounts["tmp"] == {"name": "tmp", "mountPath": "/tmp"}
        for volume in volumes.values():
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in objects


@every
def test_probes_ask_the_health_service(arguments, values):
    for role, pod_template in pod_templates(render(*arguments, values=values)):
        (only,) = pod_template["spec"]["containers"]
        if role not in ROLES:
            continue
        health = {port["name"]: port["containerPort"] for port in only["ports"]}["health"]
        # Alive as long as the process answers, ready once it does its work: a pod that waits for others must not be killed.
        for probe in ("startupProbe", "livenessProbe"):
            assert only[probe]["grpc"] == {"port": health, "service": LIVENESS}, role
        assert only["readinessProbe"]["grpc"] == {"port": health}
        # Loading TensorFlow on a busy node takes minutes.
        assert only["startupProbe"]["periodSeconds"] * only["startupProbe"]["failureThreshold"] >= 300


@every
def test_pods_have_time_to_end(arguments, values):
    least = {"replay": 120, "learner": 60, "coordinator": 30, "actor": 30, "evaluator": 30, "controller": 10}
    for role, pod_template in pod_templates(render(*arguments, values=values)):
        if role not in ROLES:
            continue
        spec = pod_template["spec"]
        (only,) = spec["containers"]
        before = int(only.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["", "0"])[1])
        assert spec["terminationGracePeriodSeconds"] - before >= least[role], role
    # Pods that are written to end after their writers.
    stops = {
        role: int(
            container(render(), role).get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["", "0"])[1]
        )
        for role in ROLES
    }
    assert stops["actor"] == stops["learner"] < stops["replay"] < stops["coordinator"]


def test_shards_are_spread():
    (constraint,) = pod(render(), "replay")["spec"]["topologySpreadConstraints"]
    assert constraint["topologyKey"] == "kubernetes.io/hostname"
    assert matches(constraint["labelSelector"], labels(render(), "replay"))
    assert not matches(constraint["labelSelector"], labels(render(), "learner"))


def test_a_roles_own_settings_replace_the_defaults():
    values = """
defaults: {nodeSelector: {pool: cpu}, tolerations: [{key: a, operator: Exists}], probes: {timeoutSeconds: 9}}
learner: {nodeSelector: {pool: gpu}, tolerations: [], probes: {periodSeconds: 20}}
"""
    objects = render(values=values)
    assert pod(objects, "actor")["spec"]["nodeSelector"] == {"pool": "cpu"}
    assert pod(objects, "actor")["spec"]["tolerations"] == [{"key": "a", "operator": "Exists"}]
    assert pod(objects, "learner")["spec"]["nodeSelector"] == {"pool": "gpu"}
    assert "tolerations" not in pod(objects, "learner")["spec"]
    probe = container(objects, "learner")["livenessProbe"]
    assert (probe["periodSeconds"], probe["timeoutSeconds"]) == (20, 9)


def test_settings_of_all_roles_reach_every_pod():
    for role, pod_template in pod_templates(render(values=EVERYTHING)):
        spec = pod_template["spec"]
        (only,) = spec["containers"]
        assert spec["nodeSelector"] == {"kubernetes.io/arch": "amd64"}, role
        assert spec["runtimeClassName"] == "gvisor"
        assert spec["tolerations"][0]["key"] == "dedicated"
        assert "nodeAffinity" in spec["affinity"]
        assert spec["imagePullSecrets"] == [{"name": "pull"}]
        assert {"name": "A", "value": "1"} in only["env"]
        assert {"name": "scratch", "mountPath": "/scratch"} in only["volumeMounts"]
        assert {"name": "scratch", "emptyDir": {}} in spec["volumes"]


def test_priorities_put_actors_last():
    objects = render(values=EVERYTHING)
    state, actors = (objects["PriorityClass", f"{NAMESPACE}-sbrl-{name}"] for name in ("state", "actors"))
    assert state["value"] > actors["value"]
    assert actors["preemptionPolicy"] == "Never"
    for role, pod_template in pod_templates(objects):
        expected = {"actor": f"{NAMESPACE}-sbrl-actors", "learner": "own"}.get(role, f"{NAMESPACE}-sbrl-state")
        assert pod_template["spec"]["priorityClassName"] == expected
    assert not any(kind == "PriorityClass" for kind, _ in render())
    assert all("priorityClassName" not in pod_template["spec"] for _, pod_template in pod_templates(render()))


def test_every_role_has_the_token_and_tls_files_it_needs():
    for values, secret in (("", "sbrl-token"), ("token: {existingSecret: mine, key: t}", "mine")):
        objects = render(values=values)
        assert (("Secret", "sbrl-token") in objects) == (secret == "sbrl-token")
        for role, pod_template in pod_templates(objects):
            volumes = {volume["name"]: volume for volume in pod_template["spec"]["volumes"]}
            assert volumes["token"]["secret"]["secretName"] == secret, role
            assert volumes["token"]["secret"]["items"] == [{"key": "token" if values == "" else "t", "path": "token"}]
            (only,) = pod_template["spec"]["containers"]
            assert {"name": "SBRL_TOKEN_FILE", "value": "/etc/sbrl/token/token"} in only["env"]
            assert "tls" not in volumes
    for role, pod_template in pod_templates(render(values="tls: {secretName: sbrl-tls}")):
        volumes = {volume["name"]: volume for volume in pod_template["spec"]["volumes"]}
        keys = {item["key"] for item in volumes["tls"]["secret"]["items"]}
        # The private key is the coordinator's alone.
        assert keys == ({"ca.crt", "tls.crt", "tls.key"} if role == "coordinator" else {"ca.crt"})
        (only,) = pod_template["spec"]["containers"]
        environment = {entry["name"]: entry.get("value") for entry in only["env"]}
        assert environment["SBRL_TLS_SERVER_NAME"] == "sbrl-coordinator.rl.svc.cluster.local"
        assert environment["SBRL_TLS_CA_FILE"] == "/etc/sbrl/tls/ca.crt"
        assert ("SBRL_TLS_KEY_FILE" in environment) == (role == "coordinator")


def test_secrets_can_be_read_without_a_group_of_the_chart():
    for values, mode in (("", 0o440), ("security: {fsGroup: null}", 0o444)):
        objects = render(values=values or "{}")
        volumes = {volume["name"]: volume for volume in pod(objects, "learner")["spec"]["volumes"]}
        assert volumes["token"]["secret"]["defaultMode"] == mode


def test_generated_tokens_are_long_and_never_the_same():
    tokens = {by_name(template().stdout)["Secret", "sbrl-token"]["data"]["token"] for _ in range(2)}
    assert len(tokens) == 2
    assert all(len(token) == 64 for token in tokens)  # 48 characters in base64


def test_the_laptop_overlay_keeps_its_promise():
    """The whole system in 4 GiB and 2 cores: requests with up to three actors, limits with one."""
    objects = render("--values", str(next(path for path in OVERLAYS if path.stem == "laptop")))

    def total(kind, resource, actors):
        counts = {"actor": actors, "replay": objects["StatefulSet", "sbrl-replay"]["spec"]["replicas"], "check": 0}
        parts = (
            (role, container(objects, role)["resources"].get(kind, {}).get(resource, "0")) for role, _ in pod_templates(objects)
        )
        return sum(counts.get(role, 1) * float(amount.removesuffix("Mi").removesuffix("m")) for role, amount in parts)

    assert total("requests", "memory", actors=3) <= 4096
    assert total("requests", "cpu", actors=3) <= 2000
    assert total("limits", "memory", actors=1) <= 4096
