"""Monitoring of a release: the bundled Prometheus, the operator's objects, Grafana's ConfigMaps, and logs."""

from __future__ import annotations

import json
import signal
import subprocess
import time
import urllib.request
from contextlib import suppress

import pytest
import yaml

from sbrl.local.prometheus import find_program
from sbrl.rpc.ports import free_ports
from sbrl.storage.metadata import run_id_of
from tests.chart.helm import CHART, WORKLOADS, container, helm, matches, pod, pod_templates, render, template
from tests.chart.test_network import PORTS, PROMETHEUS, STRANGER, allows, pods_of, reaches
from tests.monitoring.promql import promtool, rules

BUNDLED = "prometheus: {enabled: true}"
OPERATOR = tuple(f"--api-versions=monitoring.coreos.com/v1/{kind}" for kind in ("PodMonitor", "PrometheusRule"))
SERVED_SECONDS = 60.0


def operators_objects(objects):
    return {kind for kind, _ in objects if kind in ("PodMonitor", "PrometheusRule")}


def unpacked(objects, directory):
    """The folder that the Prometheus container finds at /etc/prometheus."""
    data = objects["ConfigMap", "sbrl-prometheus"]["data"]
    volumes = {volume["name"]: volume for volume in pod(objects, "prometheus")["spec"]["volumes"]}
    items = volumes["config"]["configMap"]["items"]
    assert {item["key"] for item in items} == set(data)
    for item in items:
        path = directory / item["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(data[item["key"]], encoding="utf-8")
    return directory / "prometheus.yaml"


def test_by_default_pods_are_annotated_and_nothing_else_is_installed():
    objects = render()
    for role, pod_template in pod_templates(objects):
        if role in WORKLOADS:
            annotations = pod_template["metadata"]["annotations"]
            assert annotations["prometheus.io/scrape"] == "true"
            assert int(annotations["prometheus.io/port"]) == PORTS["metrics"]
            assert annotations["prometheus.io/path"] == "/metrics"
    assert not operators_objects(objects)
    assert not any("prometheus" in name for _, name in objects)


@pytest.mark.parametrize(
    ("values", "arguments", "made"),
    [
        ("", (), set()),
        ("", OPERATOR, {"PodMonitor", "PrometheusRule"}),
        ("", OPERATOR[:1], {"PodMonitor"}),
        ("metrics: {podMonitor: {create: never}}", OPERATOR, {"PrometheusRule"}),
        ("metrics: {prometheusRule: {create: never}}", OPERATOR, {"PodMonitor"}),
        ("metrics: {podMonitor: {create: always}}", (), {"PodMonitor"}),
        ("metrics: {prometheusRule: {create: always}}", (), {"PrometheusRule"}),
    ],
)
def test_the_operators_objects_are_made_where_it_knows_them_or_as_told(values, arguments, made):
    assert operators_objects(render(*arguments, values=values)) == made


def test_the_pod_monitor_reads_every_role_under_the_labels_of_the_rules():
    objects = render(*OPERATOR, values="metrics: {intervalSeconds: 20, podMonitor: {labels: {release: stack}}}")
    monitor = objects["PodMonitor", "sbrl"]
    assert monitor["metadata"]["labels"]["release"] == "stack"
    for role, pod_template in pod_templates(objects):
        assert matches(monitor["spec"]["selector"], pod_template["metadata"]["labels"]), role
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["interval"] == "20s"
    ports = {port["name"]: port["containerPort"] for port in container(objects, "learner")["ports"]}
    assert ports[endpoint["port"]] == PORTS["metrics"]
    named = {entry["targetLabel"]: entry["sourceLabels"] for entry in endpoint["relabelings"]}
    assert named == {
        "instance": ["__meta_kubernetes_pod_name"],
        "release": ["__meta_kubernetes_pod_label_app_kubernetes_io_instance"],
        "component": ["__meta_kubernetes_pod_label_app_kubernetes_io_component"],
        "group": ["__meta_kubernetes_pod_label_sbrl_group"],
    }


def test_the_prometheus_rule_holds_every_rule_unchanged(tmp_path):
    manifest = render(*OPERATOR)["PrometheusRule", "sbrl"]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(manifest["spec"]), encoding="utf-8")
    assert promtool("check", "rules", path).returncode == 0
    assert [rule for group in manifest["spec"]["groups"] for rule in group["rules"]] == [rule.body for rule in rules()]


@pytest.mark.parametrize(
    "values", [BUNDLED, 'prometheus: {enabled: true, alertmanagers: ["a:9093", "b:9093"]}\nmetrics: {intervalSeconds: 5}']
)
def test_promtool_accepts_the_bundled_configuration(values, tmp_path):
    path = unpacked(render(values=values), tmp_path)
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    discovery = with_pods_from_a_file(path)
    done = promtool("check", "config", path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 rule files found" in done.stdout
    if values != BUNDLED:
        assert config["alerting"]["alertmanagers"] == [{"static_configs": [{"targets": ["a:9093", "b:9093"]}]}]
        assert config["global"]["scrape_interval"] == config["global"]["scrape_timeout"] == "5s"
    # The keys that https://prometheus.io/docs/prometheus/latest/configuration/configuration/#kubernetes_sd_config has.
    assert set(discovery) == {"role", "namespaces", "selectors"}
    assert discovery["role"] == discovery["selectors"][0]["role"] == "pod"
    assert discovery["namespaces"] == {"names": ["rl"]}
    wanted = dict(part.split("=") for part in discovery["selectors"][0]["label"].split(","))
    for role, labels in pods_of(render(values=values)).items():
        assert matches({"matchLabels": wanted}, labels), role


def with_pods_from_a_file(path):
    """Replaces the discovery through the Kubernetes API, which Debian's build leaves out, by a file; returns that."""
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    (scrape,) = config["scrape_configs"]
    (discovery,) = scrape.pop("kubernetes_sd_configs")
    scrape["file_sd_configs"] = [{"files": ["pods.json"]}]
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return discovery


def meta_labels(role, labels, port):
    """The labels that Prometheus' discovery gives a pod's port."""
    found = {
        "__meta_kubernetes_namespace": "rl",
        "__meta_kubernetes_pod_name": f"sbrl-{role}-0",
        "__meta_kubernetes_pod_container_port_name": port,
    }
    return found | {f"__meta_kubernetes_pod_label_{key.translate(str.maketrans('./-', '___'))}": v for key, v in labels.items()}


def test_the_real_prometheus_makes_of_pods_the_targets_that_the_rules_expect(tmp_path):
    """The rendered configuration, except for the discovery: a file has the API's content."""
    objects = render(values=f"{BUNDLED}\nactors: {{podLabels: {{sbrl/group: fast}}}}")
    path = unpacked(objects, tmp_path)
    with_pods_from_a_file(path)
    pods = [
        {"targets": [f"127.0.0.1:{9 + k}"], "labels": meta_labels(role, labels, port)}
        for k, (role, labels) in enumerate(pods_of(objects).items())
        for port in ("metrics", "health")
    ]
    (tmp_path / "pods.json").write_text(json.dumps(pods), encoding="utf-8")
    (port,) = free_ports("127.0.0.1", 1)
    program = find_program("prometheus")
    assert program, "prometheus is not here: scripts/prometheus.sh fetches it"
    command = [program, f"--config.file={path}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    with subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL) as server:
        try:
            targets = active_targets(port, len(pods) // 2)
        finally:
            server.send_signal(signal.SIGTERM)
    for labels in targets:
        role = labels["component"]
        expected = {"job": "sbrl", "namespace": "rl", "release": "sbrl", "component": role, "pod": f"sbrl-{role}-0"}
        expected |= {"instance": f"sbrl-{role}-0"} | ({"group": "fast"} if role == "actor" else {})
        assert labels == expected
    assert {labels["component"] for labels in targets} == set(pods_of(objects))


def active_targets(port, number):
    deadline = time.monotonic() + SERVED_SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/targets", timeout=10) as answer:
            targets = json.load(answer)["data"]["activeTargets"]
            if len(targets) == number:
                return [target["labels"] for target in targets]
        time.sleep(0.2)
    raise AssertionError(f"not {number} targets within {SERVED_SECONDS:.0f} s")


def test_the_bundled_prometheus_may_find_pods_of_its_namespace_and_no_more():
    objects = render(values=BUNDLED)
    role = objects["Role", "sbrl-prometheus"]
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    binding = objects["RoleBinding", "sbrl-prometheus"]
    assert binding["roleRef"]["name"] == binding["subjects"][0]["name"] == "sbrl-prometheus"
    assert not any(kind.startswith("Cluster") for kind, _ in objects)


def test_the_bundled_prometheus_keeps_its_data_and_is_probed():
    objects = render(values=BUNDLED)
    only = container(objects, "prometheus")
    assert only["image"] == "prom/prometheus:v3.5.0"
    assert only["livenessProbe"]["httpGet"] == {"path": "/-/healthy", "port": "web"}
    assert only["readinessProbe"]["httpGet"] == only["startupProbe"]["httpGet"] == {"path": "/-/ready", "port": "web"}
    spec = objects["StatefulSet", "sbrl-prometheus"]["spec"]
    assert spec["replicas"] == 1
    assert spec["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"] == "4Gi"
    arguments = dict(argument.lstrip("-").split("=", 1) for argument in only["args"])
    mounts = {mount["mountPath"] for mount in only["volumeMounts"]}
    assert arguments["storage.tsdb.path"] in mounts
    assert arguments["config.file"].rpartition("/")[0] in mounts
    digest = f"sha256:{'0' * 64}"
    pinned = render(values=f"prometheus: {{enabled: true, image: {{digest: '{digest}'}}}}")
    assert container(pinned, "prometheus")["image"] == f"prom/prometheus@{digest}"


def test_another_rule_or_interval_is_another_pod():
    checksums = {
        pod(render(values=values), "prometheus")["metadata"]["annotations"]["checksum/config"]
        for values in (BUNDLED, f"{BUNDLED}\nmetrics: {{intervalSeconds: 30}}")
    }
    assert len(checksums) == 2


def test_the_bundled_prometheus_reaches_metrics_and_the_api_and_is_reached_by_whom_it_is_opened_to():
    objects = render(values=f"{BUNDLED}\n")
    pods = pods_of(objects)
    watcher = pods["prometheus"]
    for role, labels in pods.items():
        if role in WORKLOADS:
            reached = {name for name, port in PORTS.items() if reaches(objects, watcher, labels, port)}
            assert reached == {"metrics"}, role
            assert not reaches(objects, labels, watcher, 9090), role
            assert not allows(objects, "Ingress", labels, PROMETHEUS, PORTS["metrics"]), "somebody else's"
    assert allows(objects, "Egress", watcher, None, 443)
    assert not allows(objects, "Egress", watcher, None, 80)
    assert not allows(objects, "Ingress", watcher, STRANGER, 9090)
    opened = render(values="prometheus: {enabled: true, from: [{podSelector: {matchLabels: {app: stranger}}}]}")
    assert allows(opened, "Ingress", pods_of(opened)["prometheus"], STRANGER, 9090)
    assert not allows(opened, "Ingress", pods_of(opened)["prometheus"], PROMETHEUS, 9090)


def test_dashboards_are_config_maps_that_grafanas_sidecar_finds():
    shipped = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (CHART / "dashboards").glob("*.json")}
    maps = {name: manifest for (kind, name), manifest in render().items() if kind == "ConfigMap" and "dashboard" in name}
    assert set(maps) == {f"sbrl-dashboard-{stem}" for stem in shipped}
    for stem, model in shipped.items():
        manifest = maps[f"sbrl-dashboard-{stem}"]
        assert manifest["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert json.loads(manifest["data"][f"sbrl-{stem}.json"]) == model
        # `kubectl apply` keeps an object's last form in an annotation of at most 256 KiB.
        assert len(json.dumps(manifest)) < 200_000
    other = render(values="dashboards: {labels: {grafana: mine, grafana_dashboard: null}, annotations: {grafana_folder: RL}}")
    metadata = other["ConfigMap", "sbrl-dashboard-overview"]["metadata"]
    assert metadata["labels"]["grafana"] == "mine"
    assert "grafana_dashboard" not in metadata["labels"]
    assert metadata["annotations"] == {"grafana_folder": "RL"}
    assert not any("dashboard" in name for _, name in render(values="dashboards: {enabled: false}"))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ("prometheus: {enable: true}", "enable"),
        ("prometheus: {image: {digest: latest}}", "/prometheus/image/digest"),
        ("prometheus: {retentionTime: 30 days}", "/prometheus/retentionTime"),
        ("prometheus: {alertmanagers: [http://a:9093]}", "/prometheus/alertmanagers/0"),
        ("metrics: {podMonitor: {create: maybe}}", "/metrics/podMonitor/create"),
        ("metrics: {intervalSeconds: 0}", "/metrics/intervalSeconds"),
        ("dashboards: {labels: [a]}", "/dashboards/labels"),
        ("logs: {format: xml}", "/logs/format"),
        ("logs: {runId: a b}", "/logs/runId"),
    ],
)
def test_bad_values_are_refused_by_name(values, named):
    done = template(values=values)
    assert done.returncode != 0
    assert named in done.stderr, done.stderr


def test_pods_log_json_and_name_the_run(tmp_path):
    path = tmp_path / "run.yaml"
    for values, log_format, run_id in (("", "json", "rl/sbrl"), ("logs: {format: text, runId: pong-7}", "text", "pong-7")):
        objects = render(values=values)
        for role in WORKLOADS:
            environment = {entry["name"]: entry.get("value") for entry in container(objects, role)["env"]}
            assert environment["SBRL_LOG_FORMAT"] == log_format, role
        path.write_text(objects["ConfigMap", "sbrl-run"]["data"]["run.yaml"], encoding="utf-8")
        assert run_id_of(path) == run_id


def test_the_notes_say_where_to_look():
    bundled = helm("install", "sbrl", str(CHART), "-n", "rl", "--dry-run=client", "--set", "prometheus.enabled=true").stdout
    assert "kubectl -n rl port-forward service/sbrl-prometheus 9090" in bundled
    alone = helm("install", "sbrl", str(CHART), "-n", "rl", "--dry-run=client").stdout
    assert "--set prometheus.enabled=true" in alone
