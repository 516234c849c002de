"""The dashboards are up to date, and every panel queries exported or recorded metrics in valid PromQL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from scripts.dashboards import DIRECTORY, dashboards
from tests.monitoring.promql import (
    DASHBOARDS,
    FOREIGN,
    check_expressions,
    exported_series,
    labels_of,
    matched_labels,
    metric_names,
    rules,
)

ALERT_LABELS = {"alertname", "alertstate", "severity"}


class Query(NamedTuple):
    """One query of a panel."""

    dashboard: str
    panel: str
    expression: str


def queries() -> list[Query]:
    return [
        Query(path.stem, panel["title"], target["expr"])
        for path in DASHBOARDS
        for panel in load(path)["panels"]
        for target in panel["targets"]
    ]


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def test_the_files_are_fresh() -> None:
    assert {path.name for path in DASHBOARDS} == set(dashboards())
    for name, model in dashboards().items():
        assert load(DIRECTORY / name) == model, f"{name} is not what scripts/dashboards.py makes: run `make dashboards`"


def test_every_query_parses(tmp_path: Path) -> None:
    check_expressions((query.expression for query in queries()), tmp_path)


def test_a_query_that_does_not_parse_is_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="parse error"):
        check_expressions(["sum by (pod (x)"], tmp_path)


def test_every_query_asks_for_what_there_is() -> None:
    recorded = {rule.name for rule in rules() if not rule.is_alert}
    for query in queries():
        named = metric_names(query.expression)
        assert named, query
        assert named <= exported_series() | recorded | FOREIGN | {"ALERTS"}, query
        for metric, label in matched_labels(query.expression):
            known = {"namespace", "release", "component", "pod", "group", "phase"} if metric in recorded else labels_of(metric)
            assert label in (known or ALERT_LABELS | {"namespace", "release"}), f"{metric} has no label {label}: {query}"


def test_every_query_is_of_the_chosen_run_only() -> None:
    for query in queries():
        wanted = {(metric, label) for metric in metric_names(query.expression) for label in ("namespace", "release")}
        assert wanted <= set(matched_labels(query.expression)), query


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_has_its_variables_and_a_full_grid(path: Path) -> None:
    model = load(path)
    assert [variable["name"] for variable in model["templating"]["list"]] == ["datasource", "namespace", "release"]
    assert "sbrl" in model["tags"]
    taken: set[tuple[int, int]] = set()
    for panel in model["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not taken & cells, f"{panel['title']} lies on another panel"
        taken |= cells
        assert place["x"] + place["w"] <= 24
    assert len({panel["id"] for panel in model["panels"]}) == len(model["panels"])
