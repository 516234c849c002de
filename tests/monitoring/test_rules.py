"""The rules are valid; each alert fires and clears, links to the runbook, and queries only exported metrics."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.monitoring.promql import (
    FOREIGN,
    ROOT,
    RULES,
    Rule,
    exported_series,
    labels_of,
    matched_labels,
    metric_names,
    promtool,
    rules,
)

UNIT_TESTS = sorted((Path(__file__).parent / "rules").glob("*.yaml"))
ALERTS = [rule for rule in rules() if rule.is_alert]


def test_promtool_accepts_the_rules() -> None:
    done = promtool("check", "rules", *RULES)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.stem)
def test_promtool_passes_the_unit_tests(path: Path) -> None:
    done = promtool("test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_a_unit_test_sees_the_alert_quiet_then_firing_then_quiet(alert: Rule) -> None:
    def seen(test: dict[str, Any]) -> list[bool]:
        return [bool(step["exp_alerts"]) for step in test.get("alert_rule_test", ()) if step["alertname"] == alert.name]

    path = Path(__file__).parent / "rules" / f"{alert.name}.yaml"
    tests = yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]
    patterns = [seen(test) for test in tests]
    assert any(pattern[:1] == [False] and True in pattern and pattern[-1] is False for pattern in patterns), patterns


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_says_how_bad_it_is_and_leads_to_its_section_of_the_runbook(alert: Rule) -> None:
    labels, annotations = (alert.body[key] for key in ("labels", "annotations"))
    assert isinstance(labels, dict)
    assert isinstance(annotations, dict)
    assert labels["severity"] in ("critical", "warning")
    assert set(annotations) == {"summary", "description", "runbook_url"}
    assert annotations["runbook_url"] == f"docs/runbook.md#{alert.name.lower()}"
    section = re.search(rf"^## {alert.name}\n(.*?)(?=^## |\Z)", runbook(), re.MULTILINE | re.DOTALL)
    assert section, f"docs/runbook.md has no section {alert.name}"
    for part in ("**Meaning.**", "**Likely causes.**", "**What to do.**"):
        assert part in section[1], f"the section {alert.name} lacks {part}"


def test_the_runbook_has_no_section_for_an_alert_that_is_gone() -> None:
    assert set(re.findall(r"^## (Sbrl\w+)$", runbook(), re.MULTILINE)) == {alert.name for alert in ALERTS}


def test_every_wait_before_an_alert_has_its_reason() -> None:
    text = (ROOT / "deploy" / "rules" / "alerts.yaml").read_text(encoding="utf-8")
    assert len(re.findall(r"^ +for: \d+m # .{20,}$|^ +# no `for`: .{20,}$", text, re.MULTILINE)) == len(ALERTS)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.name)
def test_a_rule_asks_for_what_is_exported_or_recorded(rule: Rule) -> None:
    recorded = {other.name for other in rules() if not other.is_alert}
    assert metric_names(rule.expression) <= exported_series() | recorded | FOREIGN
    for metric, label in matched_labels(rule.expression):
        assert label in (labels_of(metric) or set()), f"{metric} has no label {label}"


def test_names_are_found_in_expressions() -> None:
    expression = """sum by (namespace, release) (rate(a_total{x="b_total"}[5m] offset 1d)) / on (pod) c:d:e > bool 3e5
                    and histogram_quantile(0.9, f_bucket) unless g == Inf"""
    assert metric_names(expression) == {"a_total", "c:d:e", "f_bucket", "g"}
    assert list(matched_labels(expression)) == [("a_total", "x")]


def runbook() -> str:
    return (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
