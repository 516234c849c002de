"""The ConfigMap that all roles read, and the pods that a change of it replaces."""

from __future__ import annotations

import re

import numpy as np
import pytest
import yaml

from sbrl.config import DERIVED, Config, build, load
from sbrl.config.presets import PRESETS
from sbrl.replay.sampling import memory_bytes
from sbrl.replay.segments import SegmentShape
from tests.chart.helm import OVERLAYS, ROOT, WORKLOADS, container, pod_templates, render, template
from tests.e2e.pods import quantity

LEARNER_BYTES = 600e6  # resident memory beside its replay, on a CPU
MEMORY_SHARE = 0.7  # share of its limit that its replay may take
SECTIONS = ("run", "env", "agent", "learner", "replay", "actors", "evaluator", "network")


def config_of(objects, directory):
    path = directory / "run.yaml"
    path.write_text(objects["ConfigMap", "sbrl-run"]["data"]["run.yaml"], encoding="utf-8")
    return load(path)


def test_the_config_is_the_default_one_with_the_charts_network(tmp_path):
    objects = render()
    config = config_of(objects, tmp_path)
    assert config.model_copy(update={"network": Config().network}) == Config()
    ports = {port["name"]: port["containerPort"] for port in container(objects, "replay")["ports"]}
    network = config.network
    assert network.bind_host == "0.0.0.0"
    assert network.coordinator_address == "sbrl-coordinator.rl.svc.cluster.local:7001"
    assert network.replay_addresses == tuple(
        f"sbrl-replay-{k}.sbrl-replay.rl.svc.cluster.local:{ports['replay']}" for k in range(2)
    )
    assert (network.health_port, network.metrics_port) == (ports["health"], ports["metrics"])


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_every_overlays_config_is_valid(overlay, tmp_path):
    config = config_of(render("--values", str(overlay)), tmp_path)
    assert len(config.network.replay_addresses) == config.replay.num_shards
    assert not config.warnings


@pytest.mark.parametrize("preset", ["small-batch", list(PRESETS)[-1]])
def test_a_preset_can_be_given_as_config_show_prints_it(preset, tmp_path):
    wanted = build(PRESETS[preset].settings)
    values = yaml.safe_dump({"run": wanted.model_dump(mode="json")})
    config = config_of(render(values=values), tmp_path)
    assert config.model_copy(update={"network": wanted.network}) == wanted


def test_what_follows_from_the_runs_length_is_left_to_the_coordinator():
    """The coordinator keeps the values from the run's beginning. A number written here would change in a longer run."""
    run = yaml.safe_load(render()["ConfigMap", "sbrl-run"]["data"]["run.yaml"])
    assert [run[section][key] for section, key in DERIVED] == [None] * len(DERIVED)


@pytest.mark.parametrize("overlay", [(), ("--values", str(ROOT / "helm/laptop.yaml"))], ids=["default", "laptop"])
def test_a_learner_without_a_gpu_has_room_for_its_replay_and_for_itself(overlay, tmp_path):
    objects = render(*overlay)
    config, limit = config_of(objects, tmp_path), quantity(container(objects, "learner")["resources"]["limits"]["memory"])
    full = memory_bytes(SegmentShape(4, config.agent.stored_steps, (84, 84), np.dtype(np.uint8)), config.replay.capacity)
    assert full <= MEMORY_SHARE * limit  # sampled from the learner's memory, not from the shards
    assert limit - full > LEARNER_BYTES


def test_ports_and_domain_are_followed(tmp_path):
    objects = render(values="ports: {coordinator: 9001, replay: 9002, health: 9003, metrics: 9004}\nclusterDomain: my.org")
    network = config_of(objects, tmp_path).network
    assert network.coordinator_address == "sbrl-coordinator.rl.svc.my.org:9001"
    assert network.replay_addresses[1] == "sbrl-replay-1.sbrl-replay.rl.svc.my.org:9002"
    assert (network.health_port, network.metrics_port) == (9003, 9004)
    assert container(objects, "actor")["livenessProbe"]["grpc"]["port"] == 9003
    assert {"name": "replay", "containerPort": 9002} in container(objects, "replay")["ports"]


def test_an_environments_arguments_arrive_as_they_are(tmp_path):
    kwargs = {"size": 5_000_000, "share": 1e-8, "text": "a<b & 'c' {{ x }}", "nested": {"list": [1, 2.5, None, True]}}
    values = yaml.safe_dump({"run": {"env": {"id": "CartPole-v1", "kwargs": kwargs}}})
    read = config_of(render(values=values), tmp_path).env.kwargs
    assert read == kwargs
    assert isinstance(read["size"], int)


def test_pods_listen_on_ipv6_where_they_are_told_to(tmp_path):
    assert config_of(render(values="bindHost: '::'"), tmp_path).network.bind_host == "::"
    assert rolled("bindHost: '::'") == set(WORKLOADS)
    assert "bindHost" in template(values="bindHost: 10.0.0.1").stderr


def rolled(values):
    """The roles whose pods a change to `values` replaces."""
    before, after = (dict(pod_templates(render(values=text))) for text in ("", values))
    return {role for role, pod in before.items() if role != "check" and pod != after[role]}


@pytest.mark.parametrize(
    ("change", "roles"),
    [
        ("run: {evaluator: {episodes: 20}}", {"coordinator", "learner", "evaluator", "controller"}),
        ("run: {actors: {weights_interval_seconds: 5}}", {"coordinator", "learner", "actor", "controller"}),
        ("run: {learner: {learning_rate: 2.0e-4}}", {"coordinator", "learner", "controller"}),
        ("run: {agent: {epsilon_end: 0.02}}", {"coordinator", "learner", "actor", "evaluator", "controller"}),
        ("run: {replay: {keep_checkpoints: 5}}", {"coordinator", "replay", "learner", "actor", "controller"}),
        # Changes that concern only the learner, or the run's length, do not make the shards write and read all their data.
        ("run: {learner: {updates_per_step: 0.5}}", {"coordinator", "learner", "controller"}),
        ("run: {replay: {ahead: 100}}", {"coordinator", "learner", "actor", "controller"}),
        ("run: {run: {env_steps: 2500000}}", {"coordinator", "learner", "actor", "evaluator", "controller"}),
        ("run: {run: {log_level: DEBUG}}", {"coordinator", "replay", "learner", "actor", "evaluator", "controller"}),
        ("actors: {maxReplicas: 8}", {"controller"}),
        ("networkPolicy: {enabled: false}", set()),
        ("check: {timeoutSeconds: 60}", set()),
    ],
)
def test_a_change_rolls_what_reads_it(change, roles):
    assert rolled(change) == roles


def checksum_reads():
    """The sections that each role's checksum covers, from the chart."""
    text = (ROOT / "deploy/templates/_run.tpl").read_text(encoding="utf-8")
    _, _, definition = text.partition('define "sbrl.runChecksum"')
    lists = re.findall(r'^  "(\w+)" \(list ((?:"[\w.]+"\s*)+)\)$', definition.partition("{{- end -}}")[0], re.MULTILINE)
    return {role: {name.partition(".")[0] for name in re.findall(r'"([\w.]+)"', names)} for role, names in lists}


@pytest.mark.parametrize(
    ("role", "folder"),
    [
        ("coordinator", "services/coordinator"),
        ("replay", "services/replay"),
        ("learner", "learner"),
        ("actor", "actors"),
        ("evaluator", "services/evaluator"),
        ("controller", "services/controller"),
    ],
)
def test_checksums_cover_what_the_roles_code_reads(role, folder):
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / folder).glob("*.py"))
    read = {section for section in SECTIONS if re.search(rf"\bconfig\.{section}\b", code)}
    assert read <= checksum_reads()[role]


def test_the_network_cannot_be_given():
    done = template(values="run: {network: {coordinator_address: 'elsewhere:7001'}}")
    assert done.returncode != 0
    assert "run.network.coordinator_address is laid out by the chart" in done.stderr
