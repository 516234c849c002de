"""The Dockerfile and its build context, without a build: `make image` builds and tries both images."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import requires

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.image_wheels import WHEELS, asked_for
from tests.chart.helm import CHART, ROOT, render

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_every_package_gets_into_the_build():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    sent = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    }
    assert sent == packages | {"pyproject.toml", "constraints.txt", "image-wheels.txt", project["project"]["readme"]}


def test_the_images_have_what_training_needs_by_hash_in_the_versions_that_are_tested():
    """image-wheels.txt agrees with constraints.txt, and with the requirements of the packages installed here."""
    wheels = dict(re.findall(r"^(\S+)==(\S+) --hash=sha256:[0-9a-f]{64}$", WHEELS.read_text(encoding="utf-8"), re.MULTILINE))
    assert len(wheels) == len(WHEELS.read_text(encoding="utf-8").splitlines()) - 2, "a line is no wheel; run: make image-wheels"
    pins = re.findall(r"^([^#\s=]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    tested = {canonicalize_name(name): version for name, version in pins}
    wheels = {canonicalize_name(name): version for name, version in wheels.items()}
    assert wheels == {name: tested.get(name) for name in wheels}, "run: make image-wheels"
    assert wheels.keys() == needed(asked_for()), "run: make image-wheels"


def needed(requirements: list[str]) -> set[str]:
    """The names of all distributions that these require, directly or not, from the metadata of installed ones."""
    found: set[tuple[str, str]] = set()
    waiting = [(Requirement(text), "") for text in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        for wanted in ("", *requirement.extras):
            key = (canonicalize_name(requirement.name), wanted)
            if key not in found:
                found.add(key)
                waiting += [(Requirement(text), wanted) for text in requires(requirement.name) or ()]
    return {name for name, _ in found}


def test_the_images_come_from_one_base_and_run_as_the_charts_user():
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)
    assert {"cpu", "learner"} <= {name for _, name in stages}
    assert {base for base, _ in stages} - {name for _, name in stages} == {"$BASE"}
    assert re.findall(r"^ARG BASE=(.*)$", DOCKERFILE, re.MULTILINE) == ["debian:bookworm-slim"]
    # Both add only their labels to one stage, so that a node stores their layers once.
    assert {name: base for base, name in stages}["cpu"] == {name: base for base, name in stages}["learner"] == "runtime"
    common = DOCKERFILE.partition("AS runtime\n")[2].partition("\nFROM ")[0]
    for last in DOCKERFILE.split("\nFROM runtime AS ")[1:]:
        assert set(re.findall(r"^([A-Z]+) ", last, re.MULTILINE)) == {"ARG", "LABEL"}
    (user,) = re.findall(r"^USER (\d+):(\d+)$", common, re.MULTILINE)
    security = render()["StatefulSet", "sbrl-learner"]["spec"]["template"]["spec"]["securityContext"]
    assert tuple(map(int, user)) == (security["runAsUser"], security["runAsGroup"])
    assert re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE) == ['["sbrl"]']


def test_both_images_say_what_they_are():
    """With the keys of the OCI image specification. An argument in a label is declared in the label's stage."""
    for last in DOCKERFILE.split("\nFROM runtime AS ")[1:]:
        labels = dict(re.findall(r'org\.opencontainers\.image\.([a-z.]+)="([^"]*)"', last))
        assert set(labels) == {"title", "description", "version", "revision", "created", "base.name"}
        assert all(labels.values())
        named = {value.removeprefix("$") for value in labels.values() if value.startswith("$")}
        assert named == set(re.findall(r"^ARG (\w+)", last, re.MULTILINE)) == {"VERSION", "REVISION", "CREATED", "BASE"}
    build = (ROOT / "scripts/image.sh").read_text(encoding="utf-8")
    assert all(f"--build-arg {name}=" in build for name in ("VERSION", "REVISION", "CREATED"))


def test_the_chart_has_a_changelog_that_artifact_hub_reads():
    annotations = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["annotations"]
    changes = yaml.safe_load(annotations["artifacthub.io/changes"])
    assert changes
    for change in changes:
        assert set(change) == {"kind", "description"}
        assert change["kind"] in ("added", "changed", "deprecated", "removed", "fixed", "security")
    assert all(isinstance(value, str) for value in annotations.values())
