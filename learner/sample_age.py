"""The age of sampled transitions, from the version of the weights that each was collected with."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import Any

import numpy as np
from numpy.typing import NDArray

# At least this many of the newest are kept: more than a day at one a second. Older transitions are seldom sampled.
KEPT_VERSIONS = 100_000


class SampleAges:
    """Remembers the agent step of the run at which each of the newest weights versions was published."""

    def __init__(self) -> None:
        # Arrays take 16 bytes a version, and searching them is as fast as searching lists.
        self._versions, self._env_steps = array("q"), array("q")

    def published(self, version: int, env_steps: int) -> None:
        """Records that `version` was published at `env_steps`. Ignores a version that is not newer than the last."""
        if self._versions and version <= self._versions[-1]:
            return
        self._versions.append(version)
        self._env_steps.append(env_steps)
        if len(self._versions) > 2 * KEPT_VERSIONS:  # delete half at once, so that the rest is seldom moved
            del self._versions[:-KEPT_VERSIONS], self._env_steps[:-KEPT_VERSIONS]

    def of(self, versions: NDArray[np.integer[Any]], env_steps: int) -> tuple[NDArray[np.int64], list[int]]:
        """(weights versions published since each transition's own, agent steps since that one was published).

        The steps are an upper bound on a transition's age. If its version is older than all kept ones, or from before this
        process, they are counted from the oldest kept version and are a lower bound.

        Args:
            versions: [B], version of the weights that each transition was collected with.
        """
        if not self._versions:
            return np.zeros(0, np.int64), []
        places = [max(0, bisect_right(self._versions, version) - 1) for version in versions]
        lags = np.maximum(0, self._versions[-1] - versions.astype(np.int64))
        return lags, [max(0, env_steps - self._env_steps[place]) for place in places]
