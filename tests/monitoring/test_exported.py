"""What a real run's roles export is what is documented, and all that rules and dashboards ask for."""

from __future__ import annotations

import json
import urllib.request
from functools import cache

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sbrl.prometheus import TARGETS, write_config, write_targets
from scripts.metrics_docs import roles
from tests.monitoring.conftest import START_SECONDS
from tests.monitoring.promql import FOREIGN, RULES, exported_series, metric_names, promtool, rules
from tests.smoke.conftest import LocalRun

pytestmark = pytest.mark.timeout(START_SECONDS + 60)
LOCAL_ROLES = ("coordinator", "replay", "learner", "actor", "evaluator")


@pytest.fixture(scope="module")
def scraped(run: LocalRun) -> dict[str, str]:
    """What each role of the run serves at /metrics, by role."""
    status = run.status()
    assert status is not None
    return {member.role: fetch(member.metrics_address) for member in status.members if member.alive}


def fetch(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
        text: str = response.read().decode()
    return text


def names(text: str) -> set[str]:
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


@cache
def defined(role: str) -> set[str]:
    """The series that a role's definitions make."""
    prefix = f"sbrl_{role}_"
    return {
        series
        for one in roles()
        for definition in one.definitions
        if definition.name.startswith(prefix)
        for series in definition.series
    }


@pytest.mark.parametrize("role", LOCAL_ROLES)
def test_a_role_exports_what_is_defined_for_it_and_nothing_undocumented(scraped: dict[str, str], role: str) -> None:
    exported = {name for name in names(scraped[role]) if name.startswith("sbrl_")}
    assert exported <= exported_series()
    assert defined(role) <= exported
    assert "sbrl_build_info" in exported


@pytest.mark.parametrize("role", LOCAL_ROLES)
def test_promtool_finds_nothing_to_lint(scraped: dict[str, str], role: str) -> None:
    done = promtool("check", "metrics", text=scraped[role])
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_name_only_what_the_run_exports(scraped: dict[str, str]) -> None:
    there = set().union(*(names(text) for text in scraped.values())) | {"up"}
    recorded = {rule.name for rule in rules() if not rule.is_alert}
    for rule in rules():
        assert metric_names(rule.expression) - recorded <= there, rule.name
    assert there >= FOREIGN


def test_state_is_on_disk_for_those_who_keep_it(scraped: dict[str, str]) -> None:
    for role in ("coordinator", "replay", "learner"):
        assert "sbrl_disk_free_bytes" in names(scraped[role]), role


def test_promtool_accepts_the_scrape_config_of_the_run(run: LocalRun) -> None:
    status = run.status()
    assert status is not None
    directory = run.directory / "prometheus"
    path = write_config(directory, RULES)
    write_targets(directory / TARGETS, status, release="run")
    done = promtool("check", "config", path)
    assert done.returncode == 0, done.stdout + done.stderr
    targets = json.loads((directory / TARGETS).read_text(encoding="utf-8"))
    assert {target["labels"]["component"] for target in targets} == set(LOCAL_ROLES)
    before = (directory / TARGETS).stat().st_ino
    write_targets(directory / TARGETS, status, release="run")
    assert (directory / TARGETS).stat().st_ino == before, "a file of targets that would not change was written again"
