"""rliable's and AdaStop's own code. Runs in .venv-oracles."""

from __future__ import annotations

from typing import Any

import numpy as np
from adastop.compare_agents import MultipleAgentsComparator
from rliable import library, metrics

from tests.oracles.wire import Arrays


def aggregates(x: Any, y: Any, thresholds: Any) -> Arrays:
    """IQM of x, probability that x improves on y, profile of x. Args: float[S, E] twice, float[T]."""
    return {
        "iqm": metrics.aggregate_iqm(x),
        "probability_of_improvement": metrics.probability_of_improvement(x, y),
        "profile": library.score_distributions(x, thresholds),
    }


def iqm_interval(x: Any, resamples: Any) -> Arrays:
    """The 95 % interval of the IQM by rliable's stratified bootstrap: float[2]. Args: x: float[S, E]."""
    np.random.seed(0)  # rliable draws from the global generator
    _, intervals = library.get_interval_estimates(
        {"x": x}, lambda scores: np.array([metrics.aggregate_iqm(scores)]), reps=int(resamples)
    )
    return {"interval": intervals["x"][:, 0]}


def adastop(x: Any, y: Any, group: Any, alpha: Any, permutations: Any) -> Arrays:
    """AdaStop's boundary at each look, and its decision after the last: 1 if x is larger, -1 if smaller, 0 if neither.

    Args:
        x, y: float[S], of two agents.
        group: seeds per look; S is a multiple of it.
    """
    looks = len(x) // int(group)
    test = MultipleAgentsComparator(n=int(group), K=looks, B=int(permutations), alpha=float(alpha), seed=0)
    for look in range(1, looks + 1):
        test.partial_compare({"x": x[: look * int(group)], "y": y[: look * int(group)]}, verbose=False)
        if test.is_finished:
            break
    decision = {"larger": 1, "smaller": -1, "equal": 0}[next(iter(test.decisions.values()))]
    return {"boundaries": np.array([high for _, high in test.boundary]), "decision": np.array(decision)}
