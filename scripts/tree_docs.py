"""Writes docs/tree.md from the first sentence of each file: `python -m scripts.tree_docs`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATH = ROOT / "docs" / "tree.md"
LONGEST = 110  # characters in a file's line

_HEAD = """\
# The tree

Every line is the first sentence of the file's own docstring or comment; `make tree-docs` writes this page. A package's line is
that of its `__init__.py`, which goes on with what it may import. [CONTRIBUTING.md](../CONTRIBUTING.md#recipes) says what to
touch for the usual changes.

"""

# Lines for entries without their own text. Their order is the page's order.
REMARKS = {
    "protos/": "the gRPC contracts; every call carries a comment that states what it promises",
    "sbrl/": "",
    "sbrl/v1/": "",
    "actors/": "",
    "learner/": "",
    "services/": "",
    "single_process/": "",
    "studies/": "",
    "studies/data/": "tables that reports need: others' baselines, prices, scales of returns",
    "studies/library/": "ready studies",
    "studies/report/templates/": "the report as HTML and Markdown",
    "bench/": "",
    "deploy/": "the Helm chart",
    "deploy/values.yaml": "its values; the part `run` is written by scripts/chart_values.py",
    "deploy/values.schema.json": "their schema; the part `run` likewise",
    "deploy/templates/": "one object a file; what they share is in _*.tpl",
    "deploy/rules/": "Prometheus rules: alerts, and what they and the dashboards record",
    "deploy/dashboards/": "Grafana dashboards, written by scripts/dashboards.py",
    "deploy/files/": "what templates read: programs that its pods run, keys that a run keeps",
    "helm/": "overlays: values for a laptop, a GPU node, a large fleet",
    "Dockerfile": "one image for the learner, one for all other roles",
    "scripts/": "what make calls",
    "tests/": "a folder a kind; a test's file is named for what it tests, its first sentence says what it holds",
    "docs/": "pages, listed by reader in index.md; docs/studies/ has the evidence",
    "Makefile": "every command; `make help` lists them",
    "pyproject.toml": "packages, extras, and the rules of ruff, mypy and import-linter",
    "constraints.txt": "the one set of versions that is tested",
    "CHANGELOG.md": "what changed for users",
    ".ci/run": "what runs on every push",
}


def document() -> str:
    """The text of docs/tree.md."""
    top = dict.fromkeys(name.partition("/")[0] for name in REMARKS)
    rows = [row for name in top for row in _rows(ROOT / name, 0)]
    width = max(len(name) for name, _ in rows) + 2
    return _HEAD + "".join(f"    {name:<{width}}{text}".rstrip() + "\n" for name, text in rows)


def first_sentence(path: Path) -> str:
    """The first sentence of a module's docstring, or of a shell script's or proto file's first comment."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        said = ast.get_docstring(ast.parse(text)) or ""
    else:
        found = re.search(r"(?:^(?:#(?!!)|//) .*\n)+", text, re.MULTILINE)
        said = re.sub(r"^(#|//) ", "", found.group(), flags=re.MULTILINE) if found else ""
    paragraph = " ".join(said.split("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z`])", paragraph)[0]


def modules() -> list[Path]:
    """Every file whose line comes from its own text."""
    return [path for name in REMARKS if name.endswith("/") for path in sorted((ROOT / name).rglob("*")) if _speaks(path)]


def _speaks(path: Path) -> bool:
    if "tests" in path.relative_to(ROOT).parts and path.name != "__init__.py":
        return False
    return path.suffix in (".py", ".sh", ".proto") and "_pb2" not in path.name


def _rows(path: Path, depth: int) -> Iterator[tuple[str, str]]:
    name = str(path.relative_to(ROOT))
    package = path / "__init__.py"
    if path.is_dir():
        below = [row for entry in sorted(path.iterdir()) for row in _rows(entry, depth + 1)]
        said = REMARKS.get(f"{name}/") or (first_sentence(package) if package.exists() else "")
        if below or said:
            yield "  " * depth + f"{path.name}/", said
        yield from below
    elif name in REMARKS or (_speaks(path) and path.name != "__init__.py"):
        yield "  " * depth + path.name, REMARKS.get(name) or first_sentence(path)


if __name__ == "__main__":
    PATH.write_text(document(), encoding="utf-8")
