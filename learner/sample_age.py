"""How old sampled transitions are: by the weights they were collected with, which each of them carries."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from sbrl.replay.items import META_FIELDS, Items

_VERSION = META_FIELDS.index("weights_version")


class SampleAges:
    """Remembers at which agent step of the run each version of the weights was published."""

    def __init__(self) -> None:
        self._versions: list[int] = []
        self._env_steps: list[int] = []

    def published(self, version: int, env_steps: int) -> None:
        """A version was published when the run had `env_steps`; one that is no newer than the last changes nothing."""
        if not self._versions or version > self._versions[-1]:
            self._versions.append(version)
            self._env_steps.append(env_steps)

    def of(self, items: Items, env_steps: int) -> tuple[NDArray[np.int64], list[int]]:
        """(versions published since the ones that the items were collected with, agent steps since those were published).

        Steps are an upper bound on the items' age. Those of items from before this process are counted from its first version,
        a lower bound.
        """
        if not self._versions:
            return np.zeros(0, np.int64), []
        versions = items.meta[:, 0, _VERSION]
        places = [max(0, bisect_right(self._versions, version) - 1) for version in versions]
        return np.maximum(0, self._versions[-1] - versions), [max(0, env_steps - self._env_steps[place]) for place in places]
