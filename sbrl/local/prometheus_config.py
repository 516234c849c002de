"""A Prometheus configuration for a run on this machine, with its targets from the fleet's list.

Targets are in a file of their own, which Prometheus reads again whenever it changes: roles that are restarted listen on other
ports. Each is named by its process, not by its port, so that its series go on across a restart. All paths are relative to the
configuration, so the folder can be moved and read elsewhere.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from sbrl import telemetry
from sbrl.storage.atomic import replace_text
from sbrl.v1.fleet_pb2 import GetStatusResponse

CONFIG, TARGETS, RULES = "prometheus.yaml", "targets.json", "rules"
SCRAPE_SECONDS = 5  # one machine's dozen targets cost nothing, and short runs give their curves enough points
NAMESPACE = "local"
# The chart's, which sbrl/telemetry/rules links to; a wheel holds a copy, an image none.
SHIPPED_RULES = Path(telemetry.__file__).parent / "rules"


def scrape_config(scrape_seconds: int = SCRAPE_SECONDS) -> str:
    """prometheus.yaml.

    Args:
        scrape_seconds: between two scrapes, and between two evaluations of the rules.
    """
    tree: dict[str, Any] = {
        "global": {"scrape_interval": f"{scrape_seconds}s", "evaluation_interval": f"{scrape_seconds}s"},
        # Where the clock is set back, samples are of times that have been: without this none is kept until it has caught up.
        "storage": {"tsdb": {"out_of_order_time_window": "1d"}},
        "rule_files": [f"{RULES}/*.yaml"],
        "scrape_configs": [{"job_name": "sbrl", "file_sd_configs": [{"files": [TARGETS]}]}],
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


def write_config(directory: Path, scrape_seconds: int = SCRAPE_SECONDS) -> Path:
    """Writes prometheus.yaml and the rules into `directory`, which is made; its targets belong beside it.

    Returns the configuration's path. Rules of an earlier version of sbrl do not stay.
    """
    rules = directory / RULES
    shutil.rmtree(rules, ignore_errors=True)
    rules.mkdir(parents=True)
    for path in sorted(SHIPPED_RULES.glob("*.yaml")):
        shutil.copyfile(path, rules / path.name)
    replace_text(directory / CONFIG, scrape_config(scrape_seconds))
    return directory / CONFIG
