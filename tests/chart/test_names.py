"""Names of objects: short enough for Kubernetes, unique to a release, and unchanged for ordinary releases."""

from __future__ import annotations

import itertools
import json
import re
import shutil

import pytest
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.chart.api_server import api_server
from tests.chart.helm import CHART, NAMESPACE, by_name, helm, render
from tests.chart.test_render import EVERYTHING, HPA, SNAPSHOTS
from tests.chart.test_upgrade import SERVER

OPERATOR = "prometheus: {enabled: true}\nmetrics: {podMonitor: {create: always}, prometheusRule: {create: always}}"
VARIANTS = (EVERYTHING, HPA, OPERATOR, SNAPSHOTS)
ORDINARY = ["sbrl", "pong", "my-run", "sbrl-dev", "sbrl2", "a-long-but-still-ordinary-release", "sbrl-20261128", "sbrl-learner"]
NAMES = """
kind: Names
names:
{{- range .Values.releases }}
{{- $root := dict "Release" (dict "Name" .release "Namespace" .namespace) "Chart" (dict "Name" "sbrl")
  "Values" (dict "nameOverride" .name "fullnameOverride" .full) }}
- fullname: {{ include "sbrl.fullname" $root | quote }}
  name: {{ include "sbrl.name" $root | quote }}
  cluster: {{ include "sbrl.clusterName" (dict "root" $root "name" "actors") | quote }}
{{- end }}
"""


@pytest.fixture(scope="module")
def chart(tmp_path_factory):
    """A chart that prints the names from the real one's templates, so that one call of helm gives hundreds."""
    chart = tmp_path_factory.mktemp("names")
    (chart / "templates").mkdir()
    shutil.copy(CHART / "templates/_names.tpl", chart / "templates")
    shutil.copy(CHART / "Chart.yaml", chart)
    (chart / "templates/names.yaml").write_text(NAMES, encoding="utf-8")
    return chart


def release(name, namespace="rl", name_override="", full=""):
    return {"release": name, "namespace": namespace, "name": name_override, "full": full}


def names(chart, releases):
    done = helm("template", "any", str(chart), "--values", "-", values=json.dumps({"releases": releases}))
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)["names"]


def suffixes():
    """(kind, suffix after the release's part) of every object in any variant, including pods and claims."""
    found = set()
    for values in VARIANTS:
        for kind, name in render(values=values):
            if kind != "PriorityClass":
                found.add((kind, name.removeprefix("sbrl")))
                found |= {("Pod", f"{name.removeprefix('sbrl')}-0")} if kind == "StatefulSet" else set()
    return sorted(found)


def assert_told_apart(chart, releases):
    """No two releases with different namespaces or names share an object's name, and all names fit."""
    endings = suffixes()
    seen: dict[tuple[str, ...], object] = {}
    for one, made in zip(releases, names(chart, releases), strict=True):
        assert len(made["fullname"]) <= 40
        assert len(made["name"]) <= 40
        assert len(made["cluster"]) <= 253
        for kind, ending in endings:
            name = made["fullname"] + ending
            # A StatefulSet's pods have labels of its name with a hash of ten characters, and with a number.
            assert len(name) <= (52 if kind == "StatefulSet" else 63), name
            key = (one["namespace"], kind, name)
            assert seen.setdefault(key, one) == one, f"{key}: {seen[key]} and {one}"
        assert seen.setdefault(("PriorityClass", made["cluster"]), one) == one, f"{made['cluster']}: {one}"


PARTS = (
    "sbrl",
    "a",
    "b",
    "pong",
    "controller",
    "prometheus",
    "backup",
    "replay",
    "learner",
    "dashboard",
    "check",
    "run",
    "x0123abcd",
)


def test_no_two_releases_of_a_namespace_share_a_name(chart):
    made = [*PARTS, *("-".join(two) for two in itertools.product(PARTS, repeat=2))]
    made += ["sbrl-backup", "a-backup", "backup"]
    made += ["-".join(three) for three in itertools.product(PARTS[:6], repeat=3)]
    # As long as Helm allows, and equal except for the last character. In the last ones, two rules meet.
    made += [f"{'long-' * 9}name-{ending}" for ending in ("1", "2", "sbrl", "x", "y")]
    made += [f"{'a' * length}{tail}" for length in range(32, 50) for tail in ("", "-sbrl", "-b")]
    releases = [release(name) for name in dict.fromkeys(made)]
    # The shortened name of one release is the name of another.
    releases += [release(one["fullname"]) for one in names(chart, releases) if one["fullname"] not in made]
    assert_told_apart(chart, releases)


def test_no_two_releases_with_names_in_place_of_the_charts_do(chart):
    texts = (
        "a",
        "b",
        "a-b",
        "b-a",
        "sbrl",
        "sbrl-a",
        "a-sbrl",
        "rl",
        "s",
        "c",
        "c-a",
        "a" * 39 + "-b",
        "a" * 39 + "-c",
        "b" * 53,
    )
    given_names = ("", "a", "b", "a-b", "rl", "s", "sbrl-a", "a" * 50, "a" * 51)
    releases = [release(name, name_override=other) for name in texts for other in given_names]
    # Two releases in a namespace have two names. One release has only one of two overrides at a time.
    for one, two in itertools.combinations(zip(releases, names(chart, releases), strict=True), 2):
        if one[0]["release"] != two[0]["release"]:
            assert one[1]["fullname"] != two[1]["fullname"], (one, two)


def test_no_two_namespaces_share_a_name_of_the_clusters(chart):
    texts = ["a", "b", "c", "a-b", "b-c", "a-b-c", "a-sbrl", "sbrl", "sbrl-a", "a" * 50, "a" * 51]
    assert_told_apart(chart, [release(name, namespace) for name in texts for namespace in [*texts, "a" * 63]])


TEXTS = st.from_regex(r"[a-c]([-a-c]{0,50}[a-c])?", fullmatch=True)


# Not shrunk on failure: each try is a call of helm.
@settings(max_examples=8, deadline=None, derandomize=True, phases=[Phase.generate])
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=60, max_size=100, unique=True))
def test_any_names_are_told_apart(chart, pairs):
    assert_told_apart(chart, [release(name, namespace) for name, namespace in pairs])


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_names_are_what_they_always_were(chart, name):
    (made,) = names(chart, [release(name)])
    assert made["fullname"] == (name if "sbrl" in name else f"{name}-sbrl")
    assert made["name"] == "sbrl"


def test_a_name_of_ones_own_is_taken_as_it_is_or_cut_with_a_hash(chart):
    texts = ["sbrl-controller", "pong-sbrl", "a" * 40, "a" * 41, "a" * 42]
    first, second, third, *cut = [one["fullname"] for one in names(chart, [release("x", full=text) for text in texts])]
    assert [first, second, third] == texts[:3]
    assert all(re.fullmatch(r"a{30}-x[0-9a-f]{8}", name) for name in cut)
    assert len(set(cut)) == 2


@pytest.mark.parametrize("name", ["pong-sbrl", "a" * 53, "0" + "a" * 52])
def test_one_name_runs_through_all_of_a_release(name):
    """Services, claims, hosts, roles and notes: every reference names an existing object."""
    letters = name if name[0].isalpha() else f"x{name[1:]}"
    done = helm("template", letters, str(CHART), "-n", NAMESPACE, "--values", "-", values=EVERYTHING)
    assert done.returncode == 0, done.stderr
    objects = by_name(done.stdout)
    (full,) = {name.removesuffix("-run") for kind, name in objects if kind == "ConfigMap" and name.endswith("-run")}
    assert re.search(r"-x[0-9a-f]{8}$", full)
    for (kind, own), manifest in objects.items():
        text = json.dumps({**manifest, "metadata": {**manifest["metadata"], "labels": {}}})
        # Every word that begins like the release's names is one of them.
        for word in re.findall(rf"\b{letters[:25]}[-a-z0-9]*", text):
            assert word == letters or word.startswith(full), (kind, own, word)
        for label in manifest["metadata"]["labels"].values():
            assert re.fullmatch(r"([A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?)?", label), label
    referred = {
        objects["StatefulSet", f"{full}-{role}"]["spec"]["serviceName"] for role in ("coordinator", "replay", "learner")
    }
    assert all(("Service", service) in objects for service in referred)
    dry = helm("install", letters, str(CHART), "-n", NAMESPACE, "--dry-run=client")
    notes = dry.stdout.partition("NOTES:")[2]
    assert set(re.findall(rf"\b{letters[:25]}\S*(?=-(?:learner|coordinator)-0)", notes)) == {full}


def older(objects, now, then):
    """The objects with the names that an older chart gave them."""
    return json.loads(json.dumps(objects).replace(now, then))


@pytest.mark.parametrize("left", ["all", "claims"])
@pytest.mark.parametrize("name", ["pong-sbrl", "a" * 50])
def test_a_release_that_an_older_chart_named_is_not_left_behind(tmp_path, name, left):
    done = helm("template", name, str(CHART), "-n", NAMESPACE)
    objects = [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]
    now = min((one["metadata"]["name"] for one in objects if one["kind"] == "ServiceAccount"), key=len)
    then = name[:40]
    cluster = older(objects, now, then)
    if left == "claims":
        labels = {"app.kubernetes.io/instance": name}
        metadata = {"name": f"data-{then}-coordinator-0", "namespace": NAMESPACE, "labels": labels}
        cluster = [{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata}]
    for release_name, override, works in ((name, "", False), (name, then, True), (f"{name[:30]}-other", "", True)):
        with api_server(cluster, tmp_path) as kubeconfig:
            more = ["--set", f"fullnameOverride={override}"] if override else []
            mode = ["--is-upgrade"] if left == "all" and release_name == name else []
            done = helm("template", release_name, str(CHART), "-n", NAMESPACE, *SERVER, str(kubeconfig), *mode, *more)
        assert (done.returncode == 0) == works, done.stderr
        if not works:
            assert f"add `--set fullnameOverride={then}` to go on with them" in done.stderr


def test_a_packages_long_version_is_no_bad_label(tmp_path):
    version = f"1.2.3-pr.{'1' * 60}+{'f' * 40}"
    done = helm("package", str(CHART), "--version", version, "--app-version", version, "-d", str(tmp_path))
    assert done.returncode == 0, done.stderr
    done = helm("template", "sbrl", *map(str, tmp_path.glob("*.tgz")))
    for manifest in by_name(done.stdout).values():
        for label in manifest["metadata"]["labels"].values():
            assert re.fullmatch(r"[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?", label), label
