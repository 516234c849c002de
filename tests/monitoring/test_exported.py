"""A real run's roles export the documented metrics, and everything that rules and dashboards query."""

from __future__ import annotations

import math
import shutil
import urllib.request
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sbrl.telemetry.metric_base import disk_room
from sbrl.v1.fleet_pb2 import GetStatusResponse
from scripts.metrics_docs import roles
from tests.monitoring.conftest import START_SECONDS
from tests.monitoring.promql import FOREIGN, exported_series, metric_names, promtool, rules
from tests.smoke.conftest import LocalRun, member

pytestmark = pytest.mark.timeout(START_SECONDS + 60)
LOCAL_ROLES = ("coordinator", "replay", "learner", "actor", "evaluator")


@pytest.fixture(scope="module")
def scraped(run: LocalRun) -> dict[str, str]:
    """The content of /metrics, by role of the run."""
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
    """The series from a role's definitions."""
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


def test_the_learner_measures_itself(run: LocalRun) -> None:
    """All readings are finite. The noise scale may need an average over a few measurements."""
    names = (
        *("gradient_noise_scale", "gradient_signal", "gradient_variance", "policy_churn_ratio", "dormant_units_ratio"),
        *("feature_rank", "td_error", "gradient_norm", "loss"),
    )

    def are_finite(status: GetStatusResponse) -> bool:
        learner = member(status, "learner", "learner")
        return learner is not None and all(math.isfinite(learner.gauges[name]) for name in names)

    status = run.wait_for(are_finite, "finite diagnostics", START_SECONDS)
    learner = member(status, "learner", "learner")
    assert learner is not None
    gauges = learner.gauges
    assert gauges["gradient_noise_scale"] == pytest.approx(gauges["gradient_variance"] / gauges["gradient_signal"])
    assert 0 <= gauges["policy_churn_ratio"] <= 1
    assert 0 <= gauges["dormant_units_ratio"] <= 1
    assert 1 <= gauges["feature_rank"] <= 32
    assert gauges["td_error"] > 0


def test_state_is_on_disk_for_those_who_keep_it(scraped: dict[str, str]) -> None:
    for role in ("coordinator", "replay", "learner"):
        assert "sbrl_disk_free_bytes" in names(scraped[role]), role


def test_what_a_file_system_reserves_for_the_system_is_no_room_and_no_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=1000, used=300, free=100))
    assert disk_room(tmp_path / "not" / "yet") == (100, 400)
