"""Builds the documentation as a site: every page, and the reference of all packages from their docstrings.

    python -m scripts.docs_site --out build/site      # by `make docs`, in its own environment

In the repository, README and similar pages are beside docs/. The site has one folder, so links between pages are rewritten.
A broken link or cross-reference fails the build.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")  # pages outside docs/
PACKAGES = ("sbrl", "learner", "actors", "services", "single_process", "studies")
GENERATED = re.compile(r"_pb2(_grpc)?$")
LINK = re.compile(r"(?P<before>\]\()(?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
READERS = {
    "Researchers": [
        "studies",
        "report",
        "agents",
        "preprocessing",
        "small-batch",
        "config",
        "run-directory",
        "extending",
        "library",
    ],
    "Platform engineers": ["deploy", "controller", "monitoring", "metrics", "runbook", "reliability", "commands"],
    "Figures": ["benchmarks", "learning"],
    "Contributors": ["ARCHITECTURE", "internals", "tree", "CONTRIBUTING", "CHANGELOG"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build/site", help="folder of the site (build/site)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sbrl-docs-") as folder:
        pages = Path(folder) / "docs"
        copy_pages(pages)
        write_reference(pages)
        settings = Path(folder) / "mkdocs.yml"
        settings.write_text(yaml.safe_dump(site(pages, arguments.out.resolve()), sort_keys=False), encoding="utf-8")
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--config-file", str(settings)]
        done = subprocess.run(command, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    if done.returncode:
        sys.exit("docs: the site was not built: see above")
    print(f"docs: {arguments.out}/index.html")


def copy_pages(pages: Path) -> None:
    """Copies docs/ and the pages beside it into one folder."""
    shutil.copytree(ROOT / "docs", pages, ignore=shutil.ignore_patterns("record.json"))
    (pages / "index.md").rename(pages / "all.md")
    for name in OUTSIDE:
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, pages / ("index.md" if name == "README.md" else name))
    for page in pages.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        page.write_text(LINK.sub(lambda found, page=page: rewritten(found, page, pages), text), encoding="utf-8")


def rewritten(found: re.Match[str], page: Path, pages: Path) -> str:
    """A link rewritten for the site."""
    target = found["target"]
    if "://" in target or target.startswith("mailto:"):
        return found[0]
    name = re.sub(r"^(\.\./|docs/)+", "", target)
    name = {"README.md": "index.md", "index.md": "all.md"}.get(name, name)
    there = pages / name if name != target or page.parent == pages else page.parent / target
    if not there.is_file():  # a folder, or another file of the repository: only its name is shown
        return "](#)" if found["before"] and target == "studies" else found[0]
    return f"]({os.path.relpath(there, page.parent)}{found['anchor'] or ''})"


def write_reference(pages: Path) -> None:
    """Writes a page for each package from its modules' docstrings."""
    folder = pages / "reference"
    folder.mkdir()
    for package, modules in reference_pages().items():
        lines = [f"# {package}", "", *(f"::: {module}\n" for module in modules)]
        (folder / f"{package}.md").write_text("\n".join(lines), encoding="utf-8")


def reference_pages() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for package, module in modules_of_packages():
        found.setdefault(package, []).append(module)
    return dict(sorted(found.items()))


def modules_of_packages() -> Iterator[tuple[str, str]]:
    for top in PACKAGES:
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if parts[-1] == "__init__" or GENERATED.search(parts[-1]):
                continue
            yield ".".join(parts[:-1]), ".".join(parts)


def site(pages: Path, out: Path) -> dict[str, object]:
    """mkdocs.yml."""
    navigation: list[object] = [{"SBRL": "index.md"}, {"All pages": "all.md"}]
    for reader, names in READERS.items():
        navigation.append({reader: [f"{name}.md" for name in names if (pages / f"{name}.md").is_file()]})
    navigation.append({"Reference": [{name: f"reference/{name}.md"} for name in reference_pages()]})
    handler = {
        "paths": [str(ROOT)],
        "options": {"docstring_style": "google", "show_source": False, "show_root_heading": True, "heading_level": 2,
                    "show_root_full_path": True, "filters": ["!^_"]},
    }  # fmt: skip
    return {
        "site_name": "SBRL",
        "site_description": "Small-batch deep reinforcement learning",
        "docs_dir": str(pages),
        "site_dir": str(out),
        "use_directory_urls": False,
        "theme": {"name": "material", "font": False, "features": ["navigation.indexes", "content.code.copy"]},
        "plugins": ["search", {"mkdocstrings": {"handlers": {"python": handler}}}],
        "markdown_extensions": ["tables", "fenced_code", "toc", "attr_list"],
        "nav": navigation,
        "not_in_nav": "studies/**",
        "validation": {
            "links": {"not_found": "warn", "anchors": "warn", "unrecognized_links": "info", "absolute_links": "warn"}
        },
    }


if __name__ == "__main__":
    main()
