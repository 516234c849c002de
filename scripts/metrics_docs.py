"""Writes docs/metrics.md from the definitions in sbrl/telemetry/metrics.py: `python -m scripts.metrics_docs`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry

from sbrl.telemetry import metrics
from sbrl.telemetry.metric_base import COMMON, Definition, RoleMetrics

PATH = Path(__file__).resolve().parent.parent / "docs" / "metrics.md"

_HEAD = """\
# Metrics

Every role serves these at `http://<address>/metrics`; its log names the address, and so does the fleet's list. This page is
made from the definitions in `sbrl/telemetry/metrics.py` by `make metrics-docs`. Alert rules are in `deploy/rules/`, what to do
about each alert in [runbook.md](runbook.md), dashboards in `deploy/dashboards/`.

## Labels of the target

Rules and dashboards expect that scraping adds these labels to every series; the chart and `sbrl train` see to it.

| label | meaning |
|---|---|
| `namespace` | the Kubernetes namespace; `local` for a run on one machine |
| `release` | the Helm release; the name of the run directory for a run on one machine |
| `component` | the role: `coordinator`, `replay`, `actor`, `learner`, `evaluator` or `controller` |
| `pod` | the pod's name; the process's name (`replay-0`) for a run on one machine |
| `group` | optional, for actors of several kinds: what their returns are shown by; on Kubernetes the pod label `sbrl/group` |

No metric has a label for a single actor, environment or item: there are as many series as processes times the rows below.

## Of every process

`process_*` are those of the Prometheus client: `process_resident_memory_bytes`, `process_virtual_memory_bytes`,
`process_cpu_seconds_total`, `process_start_time_seconds`, `process_open_fds`, `process_max_fds`.
"""


def roles() -> list[RoleMetrics]:
    """The metrics of every role, in order of definition."""
    found: list[Callable[[CollectorRegistry], RoleMetrics]] = [
        thing
        for thing in vars(metrics).values()
        if isinstance(thing, type) and issubclass(thing, RoleMetrics) and thing is not RoleMetrics
    ]
    return [role(CollectorRegistry()) for role in found]


def definitions() -> list[Definition]:
    """All metrics except process_*."""
    return [*COMMON, *(definition for role in roles() for definition in role.definitions)]


def document() -> str:
    """The text of docs/metrics.md."""
    parts = [_HEAD, _table(COMMON)]
    for role in roles():
        name = role.definitions[0].name.split("_")[1]
        parts += [f"\n## {name.capitalize()}\n\n{_sentence(role.__class__.__doc__ or '')}\n", _table(role.definitions)]
    return "\n".join(parts)


def _table(rows: Iterable[Definition]) -> str:
    lines = ["| name | type | labels | unit | meaning |", "|---|---|---|---|---|"]
    lines += [f"| `{row.name}` | {row.kind} | {_labels(row)} | {row.unit} | {row.meaning} |" for row in rows]
    return "\n".join(lines)


def _labels(row: Definition) -> str:
    if row.values:
        return f"`{row.labels[0]}`: {', '.join(row.values)}"
    return ", ".join(f"`{label}`" for label in row.labels)


def _sentence(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    PATH.write_text(document() + "\n", encoding="utf-8")
