"""Writes the tables of docs/benchmarks.md from bench.json. Text between two marks is never edited by hand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from bench.figures import Record, load, number, write
from sbrl.errors import UsageError
from sbrl.storage.atomic import replace_text

DOCS = Path(__file__).parents[1] / "docs"
PAGE, RECORDS = DOCS / "benchmarks.md", DOCS / "bench.json"
_BLOCK = re.compile(r"(?P<begin><!-- bench: (?P<part>[a-z-]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)


def check_checkout() -> None:
    """
    Raises:
        UsageError: there is no page to write tables into.
    """
    if not PAGE.exists():
        raise UsageError(f"--document writes {PAGE}, which is not there: call it from a checkout, installed with `make setup`")


def document(records: Mapping[str, Record]) -> None:
    """Replaces the records of the same parts in docs/bench.json, and writes the page's tables again."""
    together = {**load(RECORDS), **records}
    write(together, RECORDS)
    replace_text(PAGE, with_tables(PAGE.read_text(encoding="utf-8"), together))


def with_tables(page: str, records: Mapping[str, Record]) -> str:
    """The page with the table of each part between its marks. Parts without a record stay as they are."""

    def block(match: re.Match[str]) -> str:
        record = records.get(match["part"])
        return match[0] if record is None else f"{match['begin']}{table(record)}{match['end']}"

    return _BLOCK.sub(block, page)


def table(record: Record) -> str:
    """A table with a row for each figure, and a column for each limit or peer."""
    columns = list(dict.fromkeys(name for figure in record.figures for name in figure.beside))
    unit = record.figures[0].unit
    one_unit = all(figure.unit == unit for figure in record.figures)
    lines = [_row(["", f"SBRL, {unit}" if one_unit else "SBRL", *columns]), "|" + "---|" * (2 + len(columns))]
    for figure in record.figures:
        value = figure.value
        text = f"**{number(value.median)}**{'' if one_unit else ' ' + figure.unit}{value.spread}"
        lines.append(_row([figure.name, text, *(str(figure.beside.get(name, "")) for name in columns)]))
    machine = record.machine
    device = f", {machine['gpu']}" if machine["gpu"] else ", no GPU"
    where = f"{machine['hardware']}{device}, load {machine['load_1m']} before, {machine['date']}"
    return "\n".join([f"`{record.command}` on {where}:", "", *lines, ""])


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
