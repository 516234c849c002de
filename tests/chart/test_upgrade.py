"""The chart with an existing release: it keeps the token, and refuses changes that the run cannot survive.

The cluster is a stand-in (tests/chart/api_server.py) with the objects of an earlier version of the release.
"""

from __future__ import annotations

import base64
import re

import pytest
import yaml

from sbrl.config import SCHEMA_VERSION, Config
from sbrl.errors import UsageError
from sbrl.local.launch import check_resumable_with
from tests.chart.api_server import api_server
from tests.chart.helm import CHART, NAMESPACE, by_name, helm, pod, render, template

# The stand-in has no schemas; scripts/kubernetes_schemas.py does that.
SERVER = ("--dry-run=server", "--disable-openapi-validation", "--kubeconfig")
CONFIGURED = ("run", "env", "agent", "learner", "replay", "actors", "evaluator")


def upgrade(tmp_path, objects, values, *mode, binary="helm"):
    """Renders with `values` for a cluster that holds `objects`."""
    with api_server(objects, tmp_path) as kubeconfig:
        return template(*SERVER, str(kubeconfig), *(mode or ["--is-upgrade"]), values=values, binary=binary)


def release(values=""):
    """The objects of a release, as a cluster would hold them."""
    return list(render(values=values).values())


@pytest.mark.parametrize("binary", ["helm", "helm3"])
def test_the_token_is_kept(tmp_path, binary):
    objects = release()
    done = upgrade(tmp_path, objects, "actors: {maxReplicas: 3}", binary=binary)
    assert done.returncode == 0, done.stderr
    assert by_name(done.stdout)["Secret", "sbrl-token"]["data"] == render(values="")["Secret", "sbrl-token"]["data"]


def token_of(objects):
    """The token, and its checksum in the learner's pod."""
    annotations = pod(objects, "learner")["metadata"]["annotations"]
    return base64.b64decode(objects["Secret", "sbrl-token"]["data"]["token"]), annotations.get("checksum/token")


def test_a_seed_is_the_token_with_and_without_a_cluster(tmp_path):
    seed, other = "token: {seed: 0123456789abcdef}", "token: {seed: 0123456789abcdeF}"
    done = upgrade(tmp_path, release(), seed)
    assert done.returncode == 0, done.stderr
    with_cluster, without = token_of(by_name(done.stdout)), token_of(render(values=seed))
    assert with_cluster == without
    # Another seed, release or namespace has another token, and other pods.
    elsewhere = [
        helm("template", name, str(CHART), "-n", place, "--values", "-", values=seed)
        for name, place in (("sbrl", "a"), ("sbrl2", NAMESPACE))
    ]
    tokens = {
        secret["data"]["token"] for done in elsewhere for (kind, _), secret in by_name(done.stdout).items() if kind == "Secret"
    }
    assert len(tokens) == 2
    assert base64.b64encode(without[0]).decode() not in tokens
    changed_seed = token_of(render(values=other))
    assert changed_seed[0] != without[0]
    assert len({changed_seed[1], without[1], token_of(render())[1]}) == 3
    assert token_of(render())[1] is None  # existing pods are not replaced


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("", "run: {replay: {num_shards: 3}}", "run.replay.num_shards from 2 to 3"),
        ("run: {replay: {num_shards: 3}}", "", "run.replay.num_shards from 3 to 2"),
        ("", "run: {env: {id: ALE/Breakout-v5}}", 'run.env.id from "ALE/Pong-v5" to "ALE/Breakout-v5"'),
        ("", "run: {replay: {prioritized: false}}", "run.replay.prioritized from true to false"),
        ("", "run: {agent: {n_step: 5}}", "the steps stored with each transition (run.agent.n_max) from 3 to 5"),
        ("", "run: {replay: {min_size: 5000}}", "run.replay.min_size from null to 5000"),
        ("", "replay: {persistence: {size: 9Gi}}", "replay.persistence cannot change in place (from 8Gi ReadWriteOnce to 9Gi"),
        ("", "learner: {persistence: {kind: ephemeral}}", "kubectl delete statefulset sbrl-learner --cascade=orphan"),
    ],
)
def test_what_a_run_cannot_survive_is_refused(tmp_path, before, after, message):
    done = upgrade(tmp_path, release(before), after)
    assert done.returncode != 0
    assert message in done.stderr


@pytest.mark.parametrize(
    "after",
    [
        "",
        "run: {run: {env_steps: 5000000}, learner: {learning_rate: 2.0e-4}, evaluator: {episodes: 3}}",
        "actors: {scaledBy: hand, replicas: 7}",
        "image: {tag: next}",
        "run: {replay: {ahead: null, min_size: null}, agent: {v_max: null}}",  # as unset as before
        # Only the learner holds the ratio and the memory: new values apply from its next start.
        "run: {learner: {batch_size: 32, updates_per_step: 1}, replay: {capacity: 500000, ahead: 200}}",
        "run: {run: {env_steps: 2000000}}",  # min_size and epsilon's decay stay what they were: the coordinator keeps them
        "replay: {resources: {limits: {memory: 6Gi}}}",
    ],
)
def test_what_it_can_is_not(tmp_path, after):
    done = upgrade(tmp_path, release(), after)
    assert done.returncode == 0, done.stderr


def test_a_config_without_a_key_had_its_default(tmp_path):
    objects = release()
    for manifest in objects:
        if manifest["metadata"]["name"] == "sbrl-run":
            text = manifest["data"]["run.yaml"]
            older = "\n".join(line for line in text.splitlines() if "frame_stack" not in line)
            objects[objects.index(manifest)] = {**manifest, "data": {"run.yaml": older}}
            assert older != text.rstrip("\n")
    assert upgrade(tmp_path, objects, "").returncode == 0


@pytest.mark.parametrize("binary", ["helm", "helm3"])
def test_a_key_that_the_run_began_without_counts_as_its_default(tmp_path, binary):
    objects = release()
    for manifest in objects:
        if manifest["metadata"]["name"] == "sbrl-run":
            text = manifest["data"]["run.yaml"]
            older = "\n".join(line for line in text.splitlines() if not re.match(r" +(reward_noise|options):", line))
            assert older.count("\n") == text.rstrip("\n").count("\n") - 2
            objects[objects.index(manifest)] = {**manifest, "data": {"run.yaml": older}}
    assert upgrade(tmp_path, objects, "", binary=binary).returncode == 0
    done = upgrade(tmp_path, objects, "run: {env: {reward_noise: 0.5}}", binary=binary)
    assert "cannot change run.env.reward_noise from 0 to 0.5" in done.stderr


def test_a_run_of_an_earlier_version_is_refused_in_one_sentence(tmp_path):
    objects = release()
    for manifest in objects:
        if manifest["metadata"]["name"] == "sbrl-run":
            text = manifest["data"]["run.yaml"]
            earlier = re.sub(r"^schema_version: \d+$", "schema_version: 1", text, flags=re.MULTILINE)
            assert earlier != text
            objects[objects.index(manifest)] = {**manifest, "data": {"run.yaml": earlier}}
    done = upgrade(tmp_path, objects, "run: {env: {id: ALE/Breakout-v5}}")
    assert done.returncode != 0
    assert f"begun by an earlier version of SBRL (config schema 1, now {SCHEMA_VERSION})" in done.stderr
    assert "run.env.id" not in done.stderr


def claims(*names):
    metadata = [{"name": f"data-sbrl-{name}", "namespace": NAMESPACE} for name in names]
    return [{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": entry} for entry in metadata]


@pytest.mark.parametrize(
    ("left", "works"),
    [
        ((), True),
        (("replay-0", "replay-1"), True),
        (("replay-0", "replay-1", "replay-2"), False),
        (("replay-0",), False),
    ],
)
def test_a_new_release_takes_up_the_volumes_of_an_earlier_one_with_as_many_shards(tmp_path, left, works):
    done = upgrade(tmp_path, claims(*left), "", "--is-upgrade=false")
    assert (done.returncode == 0) == works, done.stderr
    if not works:
        assert "data-sbrl-replay-* of an earlier run are not those of run.replay.num_shards=2 shards" in done.stderr


def changed(config, section, key):
    """The config with another value for one key, ignoring rules over several keys."""
    was = getattr(getattr(config, section), key)
    if was is None:
        return 7
    if isinstance(was, dict):
        return {**was, "another": 1}
    return not was if isinstance(was, bool) else f"{was}x" if isinstance(was, str) else was + 1


def keys(config):
    return [(section, key) for section in CONFIGURED for key in type(getattr(config, section)).model_fields]


def refused_by_the_launcher():
    """The keys that a resumed run refuses to change, according to the launcher's own check."""
    before = Config()
    for section, key in keys(before):
        part = getattr(before, section).model_copy(update={key: changed(before, section, key)})
        try:
            check_resumable_with(before, before.model_copy(update={section: part}))
        except UsageError as error:
            if str(error).startswith(f"{section}.{key} "):
                yield section, key


def test_the_chart_refuses_what_resuming_refuses(tmp_path):
    """An upgrade that changes every key. The message names exactly these keys."""
    before = Config()
    run: dict[str, dict[str, object]] = {section: {} for section in CONFIGURED}
    for section, key in keys(before):
        run[section][key] = changed(before, section, key)
    # The values need not make sense: only the comparison matters.
    done = upgrade(tmp_path, release(), yaml.safe_dump({"run": run}), "--is-upgrade", "--skip-schema-validation")
    named = {tuple(name.split(".")) for name in re.findall(r"run\.(\w+\.\w+) from", done.stderr)}
    assert named == set(refused_by_the_launcher())
    # What the launcher asks of the config's own properties.
    assert "the steps stored with each transition (run.agent.n_max) from 3 to 7" in done.stderr
    assert "whether there is self-prediction (run.agent.spr_weight)" in done.stderr
