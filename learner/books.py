"""What the network was trained on, shard by shard, over the processes that trained it."""

from __future__ import annotations

from collections.abc import Mapping

from sbrl.ratio_books import LOST, TRAINED, by_shard


class TrainingBooks:
    """Counts of this process, and of those before it as far as their work is in the network that it goes on with.

    A learner that was killed had trained on more than its last checkpoint holds: that is lost, said so, and due again. And it
    may have saved more than it had time to report: that is reported now.
    """

    def __init__(self, num_shards: int, reported: Mapping[str, float], held: Mapping[str, int | float], updates: int) -> None:
        """
        Args:
            reported: the coordinator's totals, by `learner.<counter>`.
            held: the counters of the checkpoint that this process goes on from; empty for a new network.
            updates: of that network.
        """
        self._before = [held.get(by_shard(TRAINED, shard), 0.0) for shard in range(num_shards)]
        reported_before = [reported.get(by_shard(f"learner.{TRAINED}", shard), 0.0) for shard in range(num_shards)]
        self._lost = [max(0.0, told - had) for told, had in zip(reported_before, self._before, strict=True)]
        self._found = [max(0.0, had - told) for told, had in zip(reported_before, self._before, strict=True)]
        told_updates = reported.get("learner.updates", 0.0)
        self._updates_lost, self._updates_found = max(0.0, told_updates - updates), max(0.0, updates - told_updates)
        self._new, self._new_updates = [0.0] * num_shards, 0

    def add(self, shard: int, samples: int) -> None:
        """Counts a batch trained on."""
        self._new[shard] += samples
        self._new_updates += 1

    @property
    def in_network(self) -> int:
        """Samples the network was trained on, over the whole run."""
        return int(sum(self._before) + sum(self._new))

    @property
    def trained(self) -> float:
        """Samples this process counts as trained: its own, and those found."""
        return sum(self._new) + self.found

    @property
    def found(self) -> float:
        """Samples in the checkpoint that the process that trained on them had not reported."""
        return sum(self._found)

    @property
    def samples_lost(self) -> float:
        return sum(self._lost)

    @property
    def updates_lost(self) -> float:
        return self._updates_lost

    @property
    def updates(self) -> float:
        """Updates this process counts: its own, and those found."""
        return self._new_updates + self._updates_found

    def counters(self) -> dict[str, float]:
        """What beats report: at any moment the parts add up."""
        new = list(self._new)
        counters = {by_shard(TRAINED, shard): new[shard] + self._found[shard] for shard in range(len(new))}
        counters |= {by_shard(LOST, shard): lost for shard, lost in enumerate(self._lost)}
        counters[TRAINED], counters[LOST] = sum(new) + self.found, self.samples_lost
        counters["updates"] = self.updates
        counters["updates_lost"] = self._updates_lost
        return counters

    def held(self) -> dict[str, int | float]:
        """What a checkpoint of the network as it is holds."""
        parts = [before + new for before, new in zip(self._before, self._new, strict=True)]
        return {TRAINED: sum(parts), **{by_shard(TRAINED, shard): part for shard, part in enumerate(parts)}}
