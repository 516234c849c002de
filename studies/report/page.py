"""The parts of a report, independent of the output format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """A table. Its first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    folded: bool = False  # collapsed until the reader opens it


@dataclass(frozen=True)
class Picture:
    """A figure as SVG and PNG."""

    name: str  # of its file, without suffix
    title: str
    description: str  # alternative text for readers who cannot see it
    svg: str
    png: bytes


@dataclass(frozen=True)
class Section:
    """A part with a heading."""

    title: str
    paragraphs: tuple[str, ...] = ()
    bullets: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    checklist: bool = False  # bullets are checkboxes


@dataclass(frozen=True)
class Verdict:
    """The verdict on one comparison, at the top of the report."""

    answer: str  # adopt, keep, not shown
    title: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """A whole report."""

    title: str
    verdicts: tuple[Verdict, ...]
    sections: tuple[Section, ...]
    tables: dict[str, Table] = field(default_factory=dict)  # by file name: tables for CSV, unrounded


def number(value: float | None, digits: int = 3) -> str:
    """A number in readable form; a dash if there is none."""
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def interval(low: float, high: float) -> str:
    return f"{number(low)} to {number(high)}"


def listed(names: Sequence[str]) -> str:
    """a, b and c"""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
