"""values.yaml, its schema, its documentation and the code agree; bad values are refused by name."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml

from sbrl.config import Config, json_schema
from services.controller.reconcile import ScalingSpec
from tests.chart.helm import CHART, ROOT, template

SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))

# A values file, and the words that the message must contain.
BAD = {
    "unknown top-level key": ("replicas: 3", "replicas"),
    "unknown key of a role": ("replay: {shards: 3}", "shards"),
    "unknown key of all roles": ("defaults: {nodeSelectors: {a: b}}", "nodeSelectors"),
    "unknown section of the config": ("run: {trainer: {batch_size: 8}}", "trainer"),
    "unknown key of the config": ("run: {learner: {batchSize: 8}}", "batchSize"),
    "batch size of zero": ("run: {learner: {batch_size: 0}}", "/run/learner/batch_size"),
    "text for a number": ("run: {run: {env_steps: many}}", "/run/run/env_steps"),
    "a part of a shard": ("run: {replay: {num_shards: 1.5}}", "/run/replay/num_shards"),
    "too many shards": ("run: {replay: {num_shards: 99}}", "/run/replay/num_shards"),
    "unknown algorithm": ("run: {agent: {algorithm: ppo}}", "/run/agent/algorithm"),
    "unknown device": ("run: {learner: {device: tpu}}", "/run/learner/device"),
    "text for a switch": ('evaluator: {enabled: "yes"}', "/evaluator/enabled"),
    "unknown way to scale": ("actors: {scaledBy: magic}", "/actors/scaledBy"),
    "fewer than no actors": ("actors: {replicas: -1}", "/actors/replicas"),
    "bad quantity of memory": ("learner: {resources: {requests: {memory: 2 GB}}}", "/learner/resources/requests/memory"),
    "bad size of a volume": ("replay: {persistence: {size: large}}", "/replay/persistence/size"),
    "a volume that two nodes share": ("learner: {persistence: {accessMode: ReadWriteMany}}", "/learner/persistence/accessMode"),
    "unknown storage": ("coordinator: {persistence: {kind: nfs}}", "/coordinator/persistence/kind"),
    "privileged port": ("ports: {metrics: 80}", "/ports/metrics"),
    "root": ("security: {runAsUser: 0}", "/security/runAsUser"),
    "a list that is text": ("learner: {tolerations: nvidia.com/gpu}", "/learner/tolerations"),
    "a toleration misspelt": ("learner: {tolerations: [{keys: a}]}", "keys"),
    "environment without a name": ("defaults: {extraEnv: [{value: a}]}", "/defaults/extraEnv/0"),
    "a percentage above all": ("replay: {maxUnavailable: 250%}", "/replay/maxUnavailable"),
    "unknown pull policy": ("image: {pullPolicy: Sometimes}", "/image/pullPolicy"),
    "negative grace": ("replay: {terminationGracePeriodSeconds: -5}", "/replay/terminationGracePeriodSeconds"),
    "policies for strangers": ("networkPolicy: {metricsFrom: [{}]}", "/networkPolicy/metricsFrom/0"),
    "a replay of another kind": ("run: {replay: {sampling: local}}", "/run/replay/sampling"),
    "least above most": ("actors: {minReplicas: 9, maxReplicas: 3}", "actors.minReplicas is 9"),
    "no name for a Service": ("fullnameOverride: 2.runs", "2.runs cannot be part of a Service's name"),
    "one port twice": ("ports: {metrics: 7003}", "ports.health and ports.metrics are both 7003"),
    "a seed that can be guessed": ("token: {seed: secret}", "/token/seed"),
    "two tokens": ("token: {seed: 0123456789abcdef, existingSecret: mine}", "token.existingSecret and token.seed are both set"),
    "backups nowhere": ("backup: {enabled: true}", "backup.to names no destination or several"),
    "backups in two places": (
        'backup: {enabled: true, to: {claim: a, bucket: "s3://bucket"}}',
        "backup.to names no destination or several",
    ),
    "copies and snapshots": (
        "backup: {enabled: true, to: {claim: a, snapshotClass: csi}}",
        "backup.to names no destination or several",
    ),
    "snapshots of another namespace": (
        "backup: {to: {snapshotClass: csi}}\nrestore: {from: other/sbrl/a}",
        "restore.from is other/sbrl/a, but snapshots can only be restored in their own namespace, and this release is in rl",
    ),
    "snapshots of no volume": (
        "backup: {enabled: true, to: {snapshotClass: csi}}\nreplay: {persistence: {kind: ephemeral}}",
        "backup.enabled is true, but replay.persistence.kind is ephemeral: there is no volume claim to copy",
    ),
    "snapshots for no volume": (
        "backup: {to: {snapshotClass: csi}}\nrestore: {from: rl/sbrl/a}\nlearner: {persistence: {kind: ephemeral}}",
        "restore.from names snapshots, but learner.persistence.kind is ephemeral: there is no volume claim to restore",
    ),
    "a class that cannot be": ("backup: {to: {snapshotClass: my class}}", "/backup/to/snapshotClass"),
    "a bucket without keys": ('backup: {enabled: true, to: {bucket: "s3://bucket"}}', "backup.to.existingSecret is empty"),
    "a restore from nowhere": ("restore: {from: rl/sbrl/a}", "backup.to names no destination or several"),
    "backups of a volume for one pod": (
        "backup: {enabled: true, to: {claim: a}}\nlearner: {persistence: {accessMode: ReadWriteOncePod}}",
        "learner.persistence.accessMode is ReadWriteOncePod: no second pod can copy the volume",
    ),
    "backups of no volume": (
        "backup: {enabled: true, to: {claim: a}}\nreplay: {persistence: {kind: ephemeral}}",
        "replay.persistence.kind is ephemeral: there is no volume claim to copy",
    ),
    "a schedule of other words": ("backup: {schedule: every day}", "/backup/schedule"),
    "an endpoint without a scheme": ("backup: {to: {endpoint: minio:9000}}", "/backup/to/endpoint"),
    "a bucket by its name": ("backup: {to: {bucket: backups}}", "/backup/to/bucket"),
    "a backup without its release": ("restore: {from: 20251124-160000}", "/restore/from"),
    "addresses": ("run: {network: {health_port: 1234}}", "run.network.health_port"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_values_are_refused_by_name(case):
    values, named = BAD[case]
    done = template(values=values)
    assert done.returncode != 0
    assert named in done.stderr, done.stderr


def test_run_schema_is_what_config_schema_prints():
    printed = json.loads(json_schema())
    embedded = {**SCHEMA["properties"]["run"], "$defs": {name: SCHEMA["$defs"][name] for name in printed["$defs"]}}
    assert embedded == printed


def test_generated_parts_are_fresh():
    command = [sys.executable, str(ROOT / "scripts/chart_values.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def objects_of(schema):
    """Every object in a schema that names its properties."""
    if isinstance(schema, dict):
        if "properties" in schema:
            yield schema
        for part in schema.values():
            yield from objects_of(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from objects_of(part)


def test_the_schema_knows_no_key_that_it_does_not_name():
    open_ones = [schema for schema in objects_of(SCHEMA) if schema.get("additionalProperties") is not False]
    # A volume may be of any of Kubernetes' thirty kinds.
    assert open_ones == [SCHEMA["$defs"]["volume"]]


def test_schema_and_values_have_the_same_keys():
    common = set(VALUES["defaults"])
    assert set(SCHEMA["properties"]) - {"global"} == set(VALUES)
    for name, value in VALUES.items():
        schema = SCHEMA["properties"][name]
        if name != "run" and "properties" in schema:
            extra = common if "nodeSelector" in schema["properties"] else set()
            assert set(schema["properties"]) - extra == set(value) - extra, name
    for name, section in VALUES["run"].items():
        if isinstance(section, dict):
            assert set(section) == set(type(getattr(Config(), name)).model_fields), name


def test_every_value_has_a_comment():
    documentation = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
    rows = [line for line in documentation.splitlines() if line.startswith("| `")]
    assert len(rows) > 150
    for row in rows:
        assert row.split(" | ")[2].strip(" |"), row


def test_values_default_to_the_config_without_a_preset():
    assert Config.model_validate(VALUES["run"]) == Config()


def test_the_controller_has_its_own_defaults():
    values = VALUES["controller"]
    for name, default in ScalingSpec._field_defaults.items():
        if name in ("min_actors", "max_actors"):  # the chart's own choice
            continue
        first, *rest = name.split("_")
        assert values[first + "".join(map(str.capitalize, rest))] == default, name


def test_chart_and_package_have_one_version():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert f'version = "{chart["appVersion"]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
