"""A Prometheus configuration for a run on this machine, with its targets from the fleet's list.

Targets are in a file of their own, which Prometheus reads again whenever it changes: roles that are restarted listen on other
ports. Each is named by its process, not by its port, so that its series go on across a restart.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from sbrl.run_directory import replace_text
from sbrl.v1.fleet_pb2 import GetStatusResponse

CONFIG, TARGETS = "prometheus.yaml", "targets.json"
SCRAPE_SECONDS = 15
NAMESPACE = "local"


def scrape_config(targets: Path, rules: Sequence[Path], scrape_seconds: int = SCRAPE_SECONDS) -> str:
    """prometheus.yaml.

    Args:
        targets: the file that `target_groups` is written to.
        rules: rule files to load.
        scrape_seconds: between two scrapes, and between two evaluations of the rules.
    """
    tree: dict[str, Any] = {
        "global": {"scrape_interval": f"{scrape_seconds}s", "evaluation_interval": f"{scrape_seconds}s"},
        "rule_files": [str(path.resolve()) for path in rules],
        "scrape_configs": [{"job_name": "sbrl", "file_sd_configs": [{"files": [str(targets.resolve())]}]}],
    }
    return str(yaml.safe_dump(tree, sort_keys=False))


def target_groups(status: GetStatusResponse, release: str) -> list[dict[str, Any]]:
    """The members of the fleet as Prometheus targets, with the labels that rules and dashboards expect.

    Args:
        release: the run's name.
    """
    return [
        {
            "targets": [member.metrics_address],
            "labels": {
                "namespace": NAMESPACE,
                "release": release,
                "component": member.role,
                "pod": member.name,
                "instance": member.name,
            },
        }
        for member in sorted(status.members, key=lambda one: (one.role, one.name))
        if member.metrics_address
    ]


def write_targets(path: Path, status: GetStatusResponse, release: str) -> None:
    """Brings the file of targets up to date; a file that would not change is left alone.

    Members stay targets after their end, so that Prometheus sees that they are gone, until the fleet forgets them.
    """
    text = json.dumps(target_groups(status, release), indent=2) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        replace_text(path, text)


def write_config(directory: Path, rules: Sequence[Path], scrape_seconds: int = SCRAPE_SECONDS) -> Path:
    """Writes prometheus.yaml into `directory`, which is made, and returns its path; its targets belong beside it."""
    directory.mkdir(parents=True, exist_ok=True)
    replace_text(directory / CONFIG, scrape_config(directory / TARGETS, rules, scrape_seconds))
    return directory / CONFIG
