"""Drains of nodes with a release end."""

from __future__ import annotations

import math

import pytest

from tests.chart.helm import OVERLAYS, matches, render


def allowed(budget, pods):
    """How many of `pods` pods may be away at a time, as the disruption controller counts: percentages round up."""
    share = str(budget)
    return math.ceil(pods * int(share.removesuffix("%")) / 100) if share.endswith("%") else int(share)


@pytest.mark.parametrize("overlay", [None, *OVERLAYS], ids=lambda path: path.stem if path else "values")
def test_a_drain_of_the_only_node_ends(overlay):
    """No evicted pod finds another node, so budgets must let all of them go at the same time."""
    objects = render(*(("--values", str(overlay)) if overlay else ()))
    budgets = [manifest["spec"] for (kind, _), manifest in objects.items() if kind == "PodDisruptionBudget"]
    assert budgets
    for (kind, name), manifest in objects.items():
        if kind in ("StatefulSet", "Deployment"):
            pods = manifest["spec"].get("replicas", 16)  # if something else scales it
            own = [one for one in budgets if matches(one["selector"], manifest["spec"]["template"]["metadata"]["labels"])]
            assert len(own) <= 1, "Kubernetes evicts no pod that has two"
            assert all(allowed(one["maxUnavailable"], pods) >= pods for one in own), name


def test_a_budget_takes_shards_one_by_one_where_that_is_wanted():
    (budget,) = (
        manifest["spec"]
        for (kind, name), manifest in render(values="replay: {maxUnavailable: 1}").items()
        if (kind, name) == ("PodDisruptionBudget", "sbrl-replay")
    )
    assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")
