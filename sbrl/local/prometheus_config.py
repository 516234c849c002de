"""A Prometheus configuration for a run on this machine, with its targets from the fleet's list.

The targets are in a separate file, which Prometheus reads again whenever it changes: restarted roles listen on other ports.
Each target has the name of its process, not its port, so that its series continue after a restart. All paths are relative to
the configuration, so the folder can be moved and read elsewhere.
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
SCRAPE_SECONDS = 5  # a dozen targets on one machine cost nothing, and even short runs get enough points for curves
NAMESPACE = "local"
# The chart's rules: sbrl/telemetry/rules is a link to them. A wheel has a copy of them, an image has none.
SHIPPED_RULES = Path(telemetry.__file__).parent / "rules"


def scrape_config(scrape_seconds: int = SCRAPE_SECONDS) -> str:
    """prometheus.yaml.

    Args:
        scrape_seconds: seconds between two scrapes, and between two evaluations of the rules.
    """
    tree: dict[str, Any] = {
        "global": {"scrape_interval": f"{scrape_seconds}s", "evaluation_interval": f"{scrape_seconds}s"},
        # If the clock is set back, samples have past times. Without this they are dropped until the clock has caught up.
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
    """Updates the file of targets; a file that would not change is not written.

    Ended members stay targets until the fleet forgets them, so that Prometheus sees that they are gone.
    """
    text = json.dumps(target_groups(status, release), indent=2) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        replace_text(path, text)


def write_config(directory: Path, scrape_seconds: int = SCRAPE_SECONDS) -> Path:
    """Writes prometheus.yaml and the rules into `directory`, and makes it if necessary. The targets belong there, too.

    Returns the configuration's path. Removes rules of an earlier version of sbrl.
    """
    rules = directory / RULES
    shutil.rmtree(rules, ignore_errors=True)
    rules.mkdir(parents=True)
    for path in sorted(SHIPPED_RULES.glob("*.yaml")):
        shutil.copyfile(path, rules / path.name)
    replace_text(directory / CONFIG, scrape_config(scrape_seconds))
    return directory / CONFIG
