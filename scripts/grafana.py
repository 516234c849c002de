"""Grafana's JSON model of a dashboard: rows of panels, each with a title, queries, legends and a unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

COLUMNS = 24  # of Grafana's grid
SCHEMA_VERSION = 39  # Grafana 11 and later read it without migration
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


class Panel(NamedTuple):
    """One panel."""

    title: str
    queries: Mapping[str, str]  # legend -> PromQL; $namespace and $release are the variables
    unit: str = "short"
    kind: str = "timeseries"
    description: str = ""
    mappings: Sequence[Mapping[str, Any]] = ()
    thresholds: Sequence[tuple[float | None, str]] = ()
    height: int = 8
    width: int = 8


def stat(title: str, query: str, unit: str = "short", **others: Any) -> Panel:
    """A single number, four of the grid's columns wide."""
    return Panel(title, {"": query}, unit, "stat", height=4, width=4, **others)


def value_mappings(values: Mapping[int, tuple[str, str]]) -> list[dict[str, Any]]:
    """Texts and colors for numbers that represent states."""
    options = {str(value): {"text": text, "color": color, "index": value} for value, (text, color) in values.items()}
    return [{"type": "value", "options": options}]


def dashboard(uid: str, title: str, rows: Sequence[Sequence[Panel]]) -> dict[str, Any]:
    """A dashboard's JSON model."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row in rows:
        assert sum(panel.width for panel in row) == COLUMNS, f"{title}: {[panel.title for panel in row]}"
        left = 0
        for panel in row:
            place = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            panels.append({"id": len(panels) + 1, "gridPos": place, **_panel(panel)})
            left += panel.width
        top += max(panel.height for panel in row)
    return {
        "uid": uid,
        "title": title,
        "tags": ["sbrl"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "links": [{"type": "dashboards", "tags": ["sbrl"], "title": "SBRL", "includeVars": True, "keepTime": True}],
        "annotations": {"list": []},
        "templating": {"list": [_datasource(), *map(_variable, ("namespace", "release"))]},
        "panels": panels,
    }


def _panel(panel: Panel) -> dict[str, Any]:
    steps = [{"value": value, "color": color} for value, color in panel.thresholds] or [{"value": None, "color": "text"}]
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "mappings": list(panel.mappings),
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    options: dict[str, Any] = {}
    if panel.kind == "timeseries":
        defaults["custom"] = {"fillOpacity": 8, "lineWidth": 1, "showPoints": "never", "spanNulls": False}
        options = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    elif panel.kind == "stat":
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
    elif panel.kind == "state-timeline":
        defaults["custom"] = {"fillOpacity": 80, "lineWidth": 0}
        options = {
            "mergeValues": True,
            "showValue": "never",
            "rowHeight": 0.8,
            "legend": {"displayMode": "list", "placement": "bottom"},
        }
    return {
        "title": panel.title,
        "description": panel.description,
        "type": panel.kind,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + k),
                "datasource": DATASOURCE,
                "expr": expression,
                "legendFormat": legend or "__auto",
                "instant": False,
                "range": True,
            }
            for k, (legend, expression) in enumerate(panel.queries.items())
        ],
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0}


def _variable(name: str) -> dict[str, Any]:
    """A variable with the values of a label; for releases, only those of the namespace."""
    selector = '{namespace="$namespace"}' if name == "release" else ""
    query = f"label_values(sbrl_build_info{selector}, {name})"
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,  # when the time range changes
        "sort": 1,
        "includeAll": False,
        "multi": False,
    }
