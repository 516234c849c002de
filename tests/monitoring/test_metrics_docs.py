"""docs/metrics.md is up to date, and the definitions follow Prometheus' conventions."""

from __future__ import annotations

import re

from sbrl.telemetry.metric_base import Definition
from scripts.metrics_docs import PATH, definitions, document

# A metric whose name ends in such a word must have this unit.
BASE_UNITS = {"seconds": "seconds", "bytes": "bytes", "ratio": "ratio"}


def test_the_page_is_fresh() -> None:
    assert PATH.read_text(encoding="utf-8") == document() + "\n", (
        "docs/metrics.md is not what the definitions make: run `make metrics-docs`"
    )


def test_names_are_unique_and_of_prometheus_form() -> None:
    names = [definition.name for definition in definitions()]
    assert len(set(names)) == len(names)
    for definition in definitions():
        assert re.fullmatch(r"sbrl(_[a-z0-9]+)+", definition.name)
        assert (definition.kind == "counter") == definition.name.endswith("_total"), definition.name


def test_units_in_names_are_the_units_told() -> None:
    for definition in definitions():
        word = definition.name.removesuffix("_total").rpartition("_")[2]
        if word in BASE_UNITS:
            assert definition.unit == BASE_UNITS[word], definition.name


def test_every_label_with_known_values_names_them() -> None:
    for definition in definitions():
        assert len(definition.labels) == 1 or not definition.values, definition.name
        assert bounded(definition), f"{definition.name} may have a series for each of anything"


def bounded(definition: Definition) -> bool:
    """Whether the number of series is bounded: by known label values, or by labels of roles, shards or the build."""
    return bool(definition.values) or set(definition.labels) <= {"role", "shard", "version", "python"}
