"""The names in PromQL expressions, and checks by promtool."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from sbrl.local.prometheus import find_program
from scripts.metrics_docs import definitions

ROOT = Path(__file__).resolve().parents[2]
RULES = sorted((ROOT / "deploy" / "rules").glob("*.yaml"))
DASHBOARDS = sorted((ROOT / "deploy" / "dashboards").glob("*.json"))
# Exported by every process through the Prometheus client, or added by Prometheus itself at each scrape.
FOREIGN = frozenset(
    {
        *("process_cpu_seconds_total", "process_start_time_seconds", "process_resident_memory_bytes", "process_open_fds"),
        *("process_max_fds", "process_virtual_memory_bytes", "up"),
    }
)
TARGET_LABELS = frozenset({"namespace", "release", "component", "pod", "group", "instance", "job"})

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*\{([^}]*)\}")
_MATCHER = re.compile(r"([a-zA-Z_][a-zA-Z0-9_]*)\s*(?:=~|!~|!=|=)")
_NAME = re.compile(r"(?<![a-zA-Z0-9_:.])[a-zA-Z_:][a-zA-Z0-9_:]*+(?!\s*\()")
_WORDS = frozenset({"and", "or", "unless", "bool", "offset", "Inf", "NaN"})


class Rule(NamedTuple):
    """One rule of a rule file."""

    file: Path
    name: str
    is_alert: bool
    expression: str
    body: dict[str, object]


def rules() -> list[Rule]:
    """All rules of deploy/rules."""
    return [
        Rule(path, rule.get("alert") or rule["record"], "alert" in rule, rule["expr"], rule)
        for path in RULES
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
    ]


def metric_names(expression: str) -> set[str]:
    """The metrics that an expression names, including recorded ones."""
    bare = _SELECTOR.sub(r" \1 ", _STRING.sub('""', expression))
    bare = re.sub(r"\[[^]]*\]", " ", _GROUPING.sub(" ", bare))
    return set(_NAME.findall(bare)) - _WORDS


def matched_labels(expression: str) -> Iterator[tuple[str, str]]:
    """(metric, label) for each label in a selector."""
    for metric, matchers in _SELECTOR.findall(_STRING.sub('""', expression)):
        for label in _MATCHER.findall(matchers):
            yield metric, label


def exported_series() -> set[str]:
    """Every name of a time series that sbrl defines."""
    return {series for definition in definitions() for series in definition.series}


def labels_of(metric: str) -> set[str] | None:
    """The labels of a metric, including the target's; None for a recorded one."""
    for definition in definitions():
        if metric in definition.series:
            extra = {"le"} if metric.endswith("_bucket") else set()
            return {*definition.labels, *extra, *TARGET_LABELS}
    return set(TARGET_LABELS) if metric in FOREIGN else None


def promtool(*arguments: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    """Runs promtool with `text` as its input. It must be installed: nothing else checks that the rules are valid."""
    program = find_program("promtool")
    assert program, "promtool is not here: scripts/prometheus.sh fetches it"
    return subprocess.run([program, *map(str, arguments)], input=text, capture_output=True, text=True, timeout=100, check=False)


def check_expressions(expressions: Iterable[str], directory: Path) -> None:
    """Asserts that promtool can parse each of the expressions."""
    recorded = [{"record": f"test:expression:{k}", "expr": expression} for k, expression in enumerate(expressions)]
    path = directory / "expressions.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "test", "rules": recorded}]}), encoding="utf-8")
    done = promtool("check", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr
