"""The report in a browser: no requests, no console messages, fits a phone, and axe finds nothing serious."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

from studies.report.__main__ import main
from tests.browser import Page, browser

pytestmark = pytest.mark.timeout(600)  # seconds on an idle machine, minutes on a busy one

ROOT = Path(__file__).parents[2]
CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
WIDTHS = {"desktop": (1280, 900), "phone": (375, 800)}
# Pictures to look at go here; without it they are not kept.
PICTURES = os.environ.get("SBRL_REPORT_PICTURES")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    assert main([str(ROOT / "docs/studies/pilot"), "--out", str(folder)]) == 0
    return folder / "report.html"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: `apt-get install chromium` (Debian), then the report is opened in it")
    with browser(CHROMIUM, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("name", WIDTHS)
def test_a_browser_opens_the_report(page: Page, report: Path, name: str):
    width, height = WIDTHS[name]
    page.open(report.as_uri(), width, height)
    assert page.evaluate("document.querySelectorAll('svg').length") > 0
    if PICTURES is not None:
        page.picture(Path(PICTURES) / f"report-{name}.png")

    assert page.requests() == [report.as_uri()]
    assert page.complaints() == []
    # Nothing but tables, in boxes of their own, is wider than the window.
    assert page.evaluate("document.documentElement.scrollWidth") <= width

    page.evaluate(resources.files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    found = json.loads(page.evaluate("axe.run(document).then(found => JSON.stringify(found.violations))"))
    serious = [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]
    assert serious == []
