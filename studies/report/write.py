"""Writes a report: one self-contained HTML page, Markdown with pictures beside it, and CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from sbrl.errors import RunError
from sbrl.storage.atomic import replace_text
from studies.report.page import Report, Table

PAGE, TEXT = "report.html", "report.md"


def write_report(report: Report, folder: Path) -> Path:
    """Writes all files of a report and returns the page's path. The same report gives the same bytes.

    Raises:
        RunError: the file system refuses.
    """
    templates = Environment(
        loader=PackageLoader("studies.report", "templates"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters["cell"] = lambda text: text.replace("|", "\\|").replace("\n", " ")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for section in report.sections:
            for picture in section.pictures:
                (folder / f"{picture.name}.png").write_bytes(picture.png)
    except OSError as error:
        raise RunError(f"cannot write the report into {folder}: {error.strerror}") from None
    for name, table in report.tables.items():
        replace_text(folder / f"{name}.csv", _csv(table))
    replace_text(folder / TEXT, templates.get_template("report.md.j2").render(report=report))
    replace_text(folder / PAGE, templates.get_template("report.html.j2").render(report=report))
    return folder / PAGE


def _csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(table.rows)
    return text.getvalue()
