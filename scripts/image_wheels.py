"""Writes image-wheels.txt: version and hash of each wheel in the images, except torch and SBRL itself.

    python scripts/image_wheels.py

pip resolves constraints.txt as for an installation on this machine, and reports the hashes. Nothing is installed. torch is left
out, because each image build chooses its own build of torch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
WHEELS = ROOT / "image-wheels.txt"
HEAD = """\
# The wheels of the images beside torch and SBRL itself, for CPython 3.11 on Linux x86_64, as PyPI has them.
# Written by `make image-wheels` from constraints.txt and pyproject.toml.
"""


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--only-binary", ":all:"]
    chosen = ["--constraint", str(ROOT / "constraints.txt"), "--report", "-", *asked_for()]
    report = json.loads(subprocess.run([*pip, *chosen], check=True, stdout=subprocess.PIPE).stdout)
    WHEELS.write_text(HEAD + "".join(line(wheel) for wheel in sorted(report["install"], key=name_of)), encoding="utf-8")


def asked_for() -> list[str]:
    """The requirements of pyproject.toml for training, without torch."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names: list[str] = project["dependencies"] + project["optional-dependencies"]["train"]
    return [name for name in names if Requirement(name).name != "torch"]


def name_of(wheel: dict[str, Any]) -> str:
    return str(wheel["metadata"]["name"]).lower()


def line(wheel: dict[str, Any]) -> str:
    """A wheel of pip's report as a requirement."""
    digest = wheel["download_info"]["archive_info"]["hashes"]["sha256"]
    return f"{name_of(wheel)}=={wheel['metadata']['version']} --hash=sha256:{digest}\n"


if __name__ == "__main__":
    main()
