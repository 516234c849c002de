"""The common parts of all roles' metrics: the registry, the definitions, and the numbers in heartbeats."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)

BUILD_INFO = "sbrl_build_info"
DISK_FREE, DISK_SIZE = "sbrl_disk_free_bytes", "sbrl_disk_size_bytes"
# The words in a metric's name that can be its unit. If there are several, the last one is.
_UNIT_WORDS = frozenset(
    {
        *("seconds", "bytes", "ratio", "steps", "frames", "episodes", "transitions", "samples", "updates", "versions"),
        *("evaluations", "checkpoints", "heartbeats", "members", "leases", "shards"),
    }
)


class Definition(NamedTuple):
    """Everything that is known about a metric without running anything."""

    name: str  # the exported name: counters end in _total
    kind: str  # counter, gauge, histogram or info
    labels: tuple[str, ...]
    values: tuple[str, ...]  # the possible values of the only label; empty if they are not known beforehand
    unit: str  # empty for a plain number
    meaning: str

    @property
    def series(self) -> tuple[str, ...]:
        """The names of its time series."""
        if self.kind == "histogram":
            return tuple(self.name + suffix for suffix in ("_bucket", "_count", "_sum"))
        return (self.name,)


# Metrics that do not belong to one role.
COMMON = (
    Definition(BUILD_INFO, "info", ("role", "version", "python"), (), "", "1, with the version of the running code"),
    Definition(
        DISK_FREE, "gauge", (), (), "bytes", "Space left where the role keeps its state: coordinator, learner and replay"
    ),
    Definition(
        DISK_SIZE, "gauge", (), (), "bytes", "Size of that file system, without what it reserves for the system's own use"
    ),
)


def make_registry(role: str) -> CollectorRegistry:
    """A registry for this process with its memory, CPU and open files (process_*) and sbrl_build_info."""
    # It would export a second series per counter, with its creation time; process_start_time_seconds is enough.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    try:
        version = metadata.version("sbrl")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        version = "unknown"
    Info(BUILD_INFO.removesuffix("_info"), COMMON[0].meaning, registry=registry).info(
        {"role": role, "version": version, "python": platform.python_version()}
    )
    return registry


def export_disk(registry: CollectorRegistry, directory: Path) -> None:
    """Exports free and total bytes of the file system of `directory`, which need not exist yet."""
    _, free, size = COMMON
    Gauge(free.name, free.meaning, registry=registry).set_function(lambda: disk_room(directory)[0])
    Gauge(size.name, size.meaning, registry=registry).set_function(lambda: disk_room(directory)[1])


def disk_room(directory: Path) -> tuple[float, float]:
    """(free bytes, total bytes) for users of the file system of `directory`, as in `df`.

    A file system can reserve a large part for the system. That part is never free for users, so it counts in neither number.
    """
    there = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    usage = shutil.disk_usage(there)
    return float(usage.free), float(usage.used + usage.free)


class RoleMetrics:
    """The metrics of one role. `counters` and `gauges` name them without the prefix sbrl_<role>_."""

    def __init__(self, role: str, registry: CollectorRegistry) -> None:
        self.definitions: list[Definition] = []
        self._prefix = f"sbrl_{role}_"
        self._registry = registry
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}

    def counters(self) -> dict[str, float]:
        """Every counter's value. A counter with a label has a value for each `<name>.<label>`, and the sum."""
        values: dict[str, float] = {}
        for name, counter in self._counters.items():
            parts = _values(counter, "_total")
            values[name] = sum(parts.values())
            values.update({f"{name}.{label}": value for label, value in parts.items() if label})
        return values

    def gauges(self) -> dict[str, float]:
        """The value of every gauge without labels."""
        return {name: sum(_values(gauge, "").values()) for name, gauge in self._gauges.items()}

    def _counter(
        self, name: str, documentation: str, labels: Sequence[str] = (), values: Sequence[str] = (), unit: str | None = None
    ) -> Counter:
        """Args: values: of the only label. Their series exist from the start, so that rates see the first increase."""
        counter = Counter(self._prefix + name, documentation, labels, registry=self._registry)
        for value in values:
            counter.labels(value)
        self._counters[name] = counter
        self._define(f"{name}_total", "counter", documentation, labels, values, unit)
        return counter

    def _gauge(
        self, name: str, documentation: str, labels: Sequence[str] = (), values: Sequence[str] = (), unit: str | None = None
    ) -> Gauge:
        """Args: values: of the only label. Their series exist from the start."""
        gauge = Gauge(self._prefix + name, documentation, labels, registry=self._registry)
        for value in values:
            gauge.labels(value)
        if not labels:
            self._gauges[name] = gauge
        self._define(name, "gauge", documentation, labels, values, unit)
        return gauge

    def _histogram(
        self,
        name: str,
        documentation: str,
        buckets: Sequence[float],
        labels: Sequence[str] = (),
        values: Sequence[str] = (),
        unit: str | None = None,
    ) -> Histogram:
        """Args: buckets: their upper bounds. values: of the only label. Their series exist from the start."""
        histogram = Histogram(self._prefix + name, documentation, labels, buckets=buckets, registry=self._registry)
        for value in values:
            histogram.labels(value)
        self._define(name, "histogram", documentation, labels, values, unit)
        return histogram

    def _define(
        self, name: str, kind: str, meaning: str, labels: Sequence[str], values: Sequence[str], unit: str | None
    ) -> None:
        if unit is None:
            unit = next((word for word in reversed(name.split("_")) if word in _UNIT_WORDS), "")
        self.definitions.append(Definition(self._prefix + name, kind, tuple(labels), tuple(values), unit, meaning))


def _values(metric: Counter | Gauge, suffix: str) -> dict[str, float]:
    """A metric's values by its labels. `suffix` excludes samples such as a counter's _created."""
    return {
        ".".join(sample.labels.values()): sample.value
        for family in metric.collect()
        for sample in family.samples
        if sample.name == family.name + suffix
    }


class Totals:
    """Raises Prometheus counters to totals that are counted elsewhere."""

    def __init__(self) -> None:
        self._seen: dict[Counter, float] = {}

    def raise_to(self, counter: Counter, total: float) -> None:
        """Adds the growth of `total` since the last call for this counter. A total that fell adds nothing."""
        seen = self._seen.get(counter, 0.0)
        counter.inc(max(0.0, total - seen))
        self._seen[counter] = max(seen, total)
