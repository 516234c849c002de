"""The table of commands that are separate programs, each with its module and its help text."""

from __future__ import annotations

from typing import NamedTuple


class Program(NamedTuple):
    """A module that is started by its name. sbrl imports none of them."""

    module: str
    help: str
    extra: str = ""  # the extra of pyproject.toml that it needs; none for tools that watch runs
    role: bool = False  # a role of a run; its log is JSON if the environment asks for it


PROGRAMS = {
    "eval": Program("services.evaluator.evaluate", "run the evaluation protocol on a checkpoint of a run directory", "train"),
    "play": Program("services.evaluator.play", "make a video of a checkpoint of a run directory", "train"),
    "doctor": Program(
        "sbrl.monitor.doctor", "say what blocks what in a running run, here or on Kubernetes, and what to change"
    ),
    "top": Program("sbrl.monitor.top", "watch a run, here or on Kubernetes"),
    "study": Program(
        "studies",
        "compare settings over seeds and environments: plan, run, status; on Kubernetes submit, collect; list, show ready ones",
        "train",
    ),
    "tune": Program(
        "studies.search", "search settings of a study jointly: batch size, learning rate, beta2, updates per step", "train"
    ),
    "report": Program(
        "studies.report", "show what a study's results or run directories come to: one HTML page, Markdown, CSV", "report"
    ),
    "bench": Program("bench", "measure learner, replay, actor and a whole run beside their limits: JSON and a chart", "train"),
    "backup": Program("sbrl.backup", "copy what a run keeps to a folder or a bucket, while it goes on"),
    "restore": Program("sbrl.backup.restore", "put a backup where a run can go on from it"),
    "snapshot": Program("sbrl.backup.snapshots", "take snapshots of a release's volumes on Kubernetes, as one backup"),
    "status": Program("sbrl.cluster.status", "show a release on Kubernetes: pods, ratio, who waits for whom"),
    "scale": Program("sbrl.cluster.scale", "set the number of actors of a release on Kubernetes"),
    "coordinator": Program("services.coordinator", "role: weights, fleet leases and the episode log", role=True),
    "replay": Program("services.replay", "role: one replay shard", "train", role=True),
    "actor": Program("actors", "role: steps environments and writes segments to the shards", "train", role=True),
    "learner": Program("learner", "role: trains on what the shards receive, at the ratio asked for", "train", role=True),
    "evaluator": Program("services.evaluator", "role: runs the evaluation protocol during a run", "train", role=True),
    "controller": Program("services.controller", "role: scales the actors of a run on Kubernetes", role=True),
}
