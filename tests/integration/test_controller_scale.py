"""`sbrl scale` as a laptop runs it, against a stand-in for the Kubernetes API that speaks real HTTP."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys

import pytest

from sbrl.cluster import scale
from sbrl.cluster.kube import ApiUnavailable, connect
from sbrl.errors import RunError, UsageError
from tests.integration.kubernetes_stand_in import ApiStandIn, Call, labels, stand_in

LIMIT = 60.0


def test_scale(api, tool):
    assert tool(scale.main, "5") == "actors of release sbrl in namespace rl: 3 -> 5\n"
    assert api.get("deployments", "sbrl-actors")["spec"]["replicas"] == 5


HELM = {
    "manager": "helm",
    "operation": "Apply",
    "apiVersion": "apps/v1",
    "time": "2026-01-01T00:00:00Z",
    "fieldsType": "FieldsV1",
    "fieldsV1": {"f:spec": {"f:template": {"f:spec": {'k:{"name":"actor"}': {".": {}}}}}},
}


def owners(api: ApiStandIn) -> list[dict[str, object]]:
    return list(api.get("deployments", "sbrl-actors")["metadata"]["managedFields"])


def test_scale_leaves_the_number_to_the_next_upgrade(api, tool):
    """Helm 4's server-side apply refuses to change fields of another owner. Fields that Helm owns stay as they are."""
    api.put("deployments", "sbrl-actors", labels=labels("actor"), managed_fields=[HELM], spec={"replicas": 3})
    writes: list[Call] = []

    def somebody_else_writes(call: Call) -> None:
        """Writes the status, as a Deployment's controller might just then."""
        if (call.verb, call.resource) == ("patch", "deployments") and not writes:
            writes.append(call)
            api.touch("deployments", "sbrl-actors")

    api.before = somebody_else_writes
    assert tool(scale.main, "5") == "actors of release sbrl in namespace rl: 3 -> 5\n"
    assert writes
    (left,) = owners(api)
    assert {**left, "time": None} == {**HELM, "time": None}
    assert str(left["time"]).startswith("2026-01-01T00:00:00")


def test_scale_says_what_an_upgrade_needs_where_it_may_not_change_the_owner(api, tool):
    api.rules["scaler"] = [
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list", "get"]},
        {"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["get", "patch"]},
    ]
    first, note = tool(scale.main, "5", token="scaler").splitlines()
    assert first.endswith("3 -> 5")
    assert note.startswith(
        "note: a `helm upgrade` that sets the number of actors will need --force-conflicts: not allowed to patch deployments"
    )
    assert [one["manager"] for one in owners(api)] == ["sbrl-scale"]


def test_scale_says_who_will_overrule_it(api, tool):
    api.put("deployments", "sbrl-controller", labels=labels("controller"), spec={"replicas": 1})
    target = {"kind": "Deployment", "name": "sbrl-actors"}
    api.put("horizontalpodautoscalers", "sbrl-actors", spec={"scaleTargetRef": target, "maxReplicas": 9})
    first, *notes = tool(scale.main, "0").splitlines()
    assert api.get("deployments", "sbrl-actors")["spec"]["replicas"] == 0
    assert first.endswith("3 -> 0")
    assert [note.split(" set")[0] for note in notes] == [
        "note: the controller (deployment sbrl-controller) goes on from there as the run demands; to keep a number,",
        "note: the HorizontalPodAutoscaler sbrl-actors",
    ]


@pytest.mark.parametrize(
    ("arguments", "releases", "error", "message"),
    [
        (["5"], [], UsageError, "no release of the chart in namespace rl of context test: name another namespace"),
        (["5"], ["a", "b"], UsageError, "2 releases in namespace rl of context test: choose one with --release: a, b"),
        (["5", "--release", "c"], ["a", "b"], UsageError, "no release 'c' in namespace rl of context test; releases: a, b"),
        (["-n", "elsewhere", "5"], ["a"], RunError, "cannot list deployments in namespace elsewhere"),
        (["5", "--context", "other"], ["a"], UsageError, "cannot reach a cluster: .*other.*; name a kubeconfig"),
        (["--", "-1"], ["a"], UsageError, "-1 actors cannot be"),
    ],
)
def test_scale_of_what_is_not_there(api, tool, arguments, releases, error, message):
    api.put("deployments", "sbrl-actors", labels={}, spec={"replicas": 3})
    for name in releases:
        api.put("deployments", f"{name}-actors", labels=labels("actor", name), spec={"replicas": 3})
    with pytest.raises(error, match=message):
        tool(scale.main, *arguments)
    assert api.writes() == []


def test_scale_of_one_of_two_releases(api, tool):
    api.put("deployments", "other-actors", labels=labels("actor", "other"), spec={"replicas": 1})
    tool(scale.main, "7", "--release", "other")
    assert [one["spec"]["replicas"] for one in api.all("deployments")] == [3, 7]


def test_scale_without_the_right(api, tool):
    api.rules["reader"] = [
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list"]},
        {"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["get"]},
    ]
    with pytest.raises(RunError, match="not allowed to patch deployments/scale sbrl-actors in namespace rl"):
        tool(scale.main, "5", token="reader")


def test_no_kubeconfig_is_one_line(tmp_path):
    command = [sys.executable, "-m", "sbrl.cluster.scale", "5", "--kubeconfig", str(tmp_path / "nothing")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("sbrl: error: cannot reach a cluster: ")


def test_tries_of_an_api_server_that_is_away_are_not_logged_one_by_one(tmp_path, caplog):
    logging.getLogger("urllib3").setLevel(logging.NOTSET)  # as a process begins
    with stand_in() as away:
        kubeconfig = away.kubeconfig(tmp_path / "kubeconfig")
    with contextlib.closing(connect(kubeconfig, None, None)) as cluster, pytest.raises(ApiUnavailable, match="does not answer"):
        cluster.scale("sbrl-actors")
    assert caplog.messages == []
