"""What all members have counted, lease by lease and in all, and the books of the ratio over it. Not thread-safe."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

from sbrl.ratio_books import DUE, INSERTED, by_shard
from services.coordinator import books
from services.coordinator.books import Plan
from services.coordinator.store import Store

# What a member that died had under way is given up with it: the counters that take it, as a whole and for this reason.
_LOST_WITH_MEMBER = {"actor": "transitions_dropped", "learner": "samples_discarded"}
_LOST_REASON = "member_lost"
# What no member may report.
OWN_COUNTERS = frozenset({books.CARRIED, *(f"{name}.{_LOST_REASON}" for name in _LOST_WITH_MEMBER.values())})

_log = logging.getLogger(__name__)


class Ledger:
    """The totals. A lease's own counters are with the lease; they are changed here, so that the totals are their sum."""

    def __init__(self, store: Store, plan: Plan) -> None:
        """Reads what is stored, and notes a ratio that differs from the last one's: it holds from here on."""
        self._store, self._plan = store, plan
        self.totals = store.totals()
        segments = store.segments()
        for shard in self._shards:
            segment = books.next_segment(segments, shard, books.inserted(self.totals, shard), plan)
            if segment is not None:
                store.add_segment(segment)
        self._segments = store.segments()

    def total(self, role: str, counter: str) -> float:
        """A counter summed over all leases, as it was reported."""
        return self.totals.get((role, counter), 0.0)

    def net(self) -> dict[tuple[str, str], float]:
        """The totals, the learner's being those of the network as it is."""
        return books.of_the_network(self.totals)

    def due(self) -> dict[str, float]:
        """Samples due, of each shard and in all, by the names that the status gives them."""
        due = [books.samples_due(self._segments, shard, books.inserted(self.totals, shard)) for shard in self._shards]
        return {DUE: sum(due), **{by_shard(DUE, shard): due[shard] for shard in self._shards}}

    def owed(self, shard: int) -> float | None:
        """Samples due of a shard that the network was not trained on; None if it is none of the run's."""
        return books.samples_owed(self._segments, self.totals, shard) if shard in self._shards else None

    def astray(self, shard: int, gauges: Mapping[str, float]) -> float:
        """How far a shard's limiter is from the books: what is owed, without what its gauges say that it knows to be owed."""
        owed, known = self.owed(shard), gauges.get("samples_owed", math.nan)
        return owed - known if owed is not None and math.isfinite(known) else 0.0

    def count(self, role: str, counters: dict[str, float], reported: Mapping[str, float]) -> None:
        """Takes a lease's cumulative counters; lower values are of a beat that was overtaken, and change nothing."""
        for name, value in reported.items():
            increase = value - counters.get(name, 0.0)
            if increase >= 0:
                counters[name] = value
                self.totals[role, name] = self.total(role, name) + increase

    def lose(self, role: str, counters: dict[str, float]) -> None:
        """Books what a member had under way as given up, when it is gone without a word."""
        name = _LOST_WITH_MEMBER.get(role)
        lost = books.under_way(role, counters)
        if name is not None and lost:
            counts = {name: lost, f"{name}.{_LOST_REASON}": lost}
            self.count(role, counters, {key: counters.get(key, 0.0) + value for key, value in counts.items()})

    def find(self, role: str, counters: dict[str, float]) -> None:
        """Undoes `lose`: the member has a later word."""
        name = _LOST_WITH_MEMBER.get(role, "")
        reason = f"{name}.{_LOST_REASON}"
        lost = counters.get(reason, 0.0)
        if lost:
            for counter in (name, reason):
                counters[counter] -= lost
                self.totals[role, counter] -= lost

    def settle_shard(self, shard: int, counters: dict[str, float]) -> None:
        """Counts what a killed shard had inserted and not reported: actors had it confirmed, and have reported it by now.

        As many as actors that were killed had inserted and not confirmed are taken for reported: they cannot be told apart.
        """
        missing = books.unreported(self.totals, shard)
        if missing:
            _log.info("replay shard %d was gone before it could report %.0f insertions", shard, missing)
            names = (INSERTED, by_shard(INSERTED, shard))
            self.count("replay", counters, {name: counters.get(name, 0.0) + missing for name in names})

    @property
    def _shards(self) -> range:
        return range(len(self._plan.min_sizes))
