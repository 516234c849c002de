"""How old sampled transitions are: by the weights they were collected with, which each of them carries."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Kept at least, of the newest: more than a day of one a second. Transitions that replay holds for longer are seldom sampled.
KEPT_VERSIONS = 100_000


class SampleAges:
    """Remembers at which agent step of the run each of the newest versions of the weights was published."""

    def __init__(self) -> None:
        # Arrays of numbers, 16 bytes a version, which are searched as fast as lists.
        self._versions, self._env_steps = array("q"), array("q")

    def published(self, version: int, env_steps: int) -> None:
        """A version was published when the run had `env_steps`; one that is no newer than the last changes nothing."""
        if self._versions and version <= self._versions[-1]:
            return
        self._versions.append(version)
        self._env_steps.append(env_steps)
        if len(self._versions) > 2 * KEPT_VERSIONS:  # half of them at once, so that what is left is seldom moved
            del self._versions[:-KEPT_VERSIONS], self._env_steps[:-KEPT_VERSIONS]

    def of(self, versions: NDArray[np.integer[Any]], env_steps: int) -> tuple[NDArray[np.int64], list[int]]:
        """(versions published since the ones that transitions were collected with, agent steps since those were published).

        Steps are an upper bound on the transitions' age. Those of transitions that are older than every version kept, or from
        before this process, are counted from the oldest one kept, a lower bound.

        Args:
            versions: [B], of the weights that each transition was collected with.
        """
        if not self._versions:
            return np.zeros(0, np.int64), []
        places = [max(0, bisect_right(self._versions, version) - 1) for version in versions]
        lags = np.maximum(0, self._versions[-1] - versions.astype(np.int64))
        return lags, [max(0, env_steps - self._env_steps[place]) for place in places]
