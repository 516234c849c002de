"""Generations: ordering them, gathering the members' checkpoints, committing them, and going back to one. Not thread-safe."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import grpc

from sbrl.fleet import STEPS_COUNTER
from sbrl.metrics import CoordinatorMetrics
from sbrl.ratio_books import INSERTED, LOST, LOST_WITH_ACTORS, TRAINED, inserted_after_all
from sbrl.v1 import fleet_pb2
from services.coordinator import books
from services.coordinator.books import Plan
from services.coordinator.manifests import CheckpointRecord, Manifest, ManifestStore
from services.coordinator.refusal import Refused
from services.coordinator.store import Moment, Store

_log = logging.getLogger(__name__)

DIRECTORY = "generations"
# A generation that is not complete so long after its order, nor by the time for the next one, is given up.
PATIENCE_SECONDS = 600.0
_TIMELINE, _BASE, _ORDERED, _RESUME = "timeline", "base_generation", "generation", "resume"


class Snapshots:
    """What generations there are; the one ordered last may still be in the making."""

    def __init__(
        self, store: Store, directory: Path, plan: Plan, metrics: CoordinatorMetrics, clock: Callable[[], float]
    ) -> None:
        """
        Args:
            directory: the coordinator's; manifests are in a folder of it.
            clock: seconds that never go back.
        """
        self._store, self._plan, self._metrics, self._clock = store, plan, metrics, clock
        self._manifests = ManifestStore(directory / DIRECTORY)
        self._kept = self._manifests.manifests()
        self.timeline = store.number(_TIMELINE)
        self.ordered = max([store.number(_ORDERED), *(one.generation for one in self._kept)])
        self._reports: dict[tuple[str, int], tuple[CheckpointRecord, Mapping[str, float]]] = {}
        # What was reported for one in the making is asked for again.
        self._gathering, self._ordered_time = not self.is_complete and self.ordered > 0, clock()
        self._next_order = clock() + plan.generation_seconds
        self._export()

    @property
    def kept(self) -> list[int]:
        """The committed generations that are kept, oldest first."""
        return [one.generation for one in self._kept]

    @property
    def is_complete(self) -> bool:
        """Whether the generation ordered last is committed."""
        return bool(self._kept) and self._kept[-1].generation == self.ordered

    def wants(self, role: str, position: int) -> bool:
        """Whether the generation in the making waits for a member's checkpoint."""
        return self._gathering and (role, position) in self._expected() - self._reports.keys()

    def base_checkpoint(self, role: str, position: int) -> CheckpointRecord | None:
        """The checkpoint that a member of this timeline begins with; None: there is none."""
        base = self._store.number(_BASE)
        return next((one.checkpoint(role, position) for one in self._kept if one.generation == base), None)

    def order_if_due(self, present: Collection[tuple[str, int]]) -> None:
        """To be called often: orders a generation every `generation_seconds`, when all who save for one are there.

        One that is still in the making is waited for: a large shard's checkpoint may take longer than that.

        Args:
            present: role and index of the live members.
        """
        now = self._clock()
        patient = self._gathering and now < self._ordered_time + PATIENCE_SECONDS
        if now >= self._next_order and not patient and self._expected() <= set(present):
            self.order()

    def order(self) -> int:
        """Orders a generation, in place of one that is still in the making, and returns its number."""
        if self._gathering:
            names = ", ".join(f"{role} {index}" for role, index in sorted(self._expected() - self._reports.keys()))
            _log.warning("generation %d is given up: no checkpoint from %s", self.ordered, names)
            self._metrics.generations_given_up.inc()
        self._reports.clear()
        self._gathering = True
        self._ordered_time = self._clock()
        self._next_order = self._ordered_time + self._plan.generation_seconds
        self.ordered += 1
        self._store.set_number(_ORDERED, self.ordered)
        return self.ordered

    def report(self, record: CheckpointRecord, generation: int, counters: Mapping[str, float], totals: books.Totals) -> None:
        """Takes a member's checkpoint for the generation ordered last; the last one missing commits it.

        Args:
            counters: what the checkpoint holds: a shard's insertions since the run began; the learner's totals.
            totals: the run's, at present.

        Raises:
            Refused: FAILED_PRECONDITION, another generation is wanted, or none of this member.
        """
        member = record.role, record.position
        if generation != self.ordered or member not in self._expected():
            raise Refused(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"generation {generation} is not wanted of {record.role} {record.position}: the newest is {self.ordered}",
            )
        if self.is_complete:
            return  # repeated: the answer was lost
        self._reports[member] = record, dict(counters)
        if self._expected() <= self._reports.keys():
            self._commit(totals)

    def resume(self, token: int) -> None:
        """Goes back to the newest generation; once for each token, however often the coordinator is started with it."""
        if self._store.number(_RESUME) == token:
            return
        if self._kept:
            self._go_back(self._kept[-1], {_RESUME: token})
        else:
            _log.warning("there is no complete generation to resume: each role goes on from its own newest checkpoint")
            self._store.set_number(_RESUME, token)

    def refuse(self, who: str, reason: str) -> None:
        """Goes back one generation further, for a member cannot read its part of the one gone back to."""
        base = self._store.number(_BASE)
        earlier = [one for one in self._kept if one.generation < base]
        _log.error("%s cannot go on from generation %d: %s", who, base, reason)
        self._metrics.generations_refused.inc()
        if earlier:
            self._go_back(earlier[-1], {})
            return
        _log.error("there is no generation before it: each role goes on from what it has")
        self._manifests.forget_after(0)
        self._kept = []
        self._reports.clear()
        self._gathering = False
        self._store.set_number(_BASE, 0)
        self.timeline += 1
        self._store.set_number(_TIMELINE, self.timeline)

    def describe(self) -> Iterable[fleet_pb2.Generation]:
        """Those that are kept, oldest first."""
        for one in self._kept:
            counters = one.moment.counters
            yield fleet_pb2.Generation(
                generation=one.generation,
                time=one.time,
                env_steps=int(counters.get(("actor", STEPS_COUNTER), 0)),
                updates=int(counters.get(("learner", "updates"), 0)),
            )

    def _expected(self) -> set[tuple[str, int]]:
        return {("learner", 0), *(("replay", shard) for shard in range(len(self._plan.min_sizes)))}

    def _commit(self, totals: books.Totals) -> None:
        reports = [self._reports[member] for member in sorted(self._reports)]
        held = {(record.role, record.position): counters for record, counters in reports}
        moment = Moment(counters_at(totals, held), self._store.segments(), *self._store.last_rows())
        manifest = Manifest(self.ordered, time.time(), tuple(record for record, _ in reports), moment)
        self._manifests.commit(manifest, self._plan.keep_generations)
        self._kept = [*self._kept, manifest][-self._plan.keep_generations :]
        self._reports.clear()
        self._gathering = False
        self._metrics.generations.inc()
        self._export()
        _log.info("generation %d is complete", manifest.generation)

    def _go_back(self, manifest: Manifest, numbers: Mapping[str, int]) -> None:
        timeline = self.timeline + 1
        later = {_TIMELINE: timeline, _BASE: manifest.generation, "finished_env_steps": 0}
        self._store.go_back(manifest.moment, {**later, **numbers})
        self.timeline = timeline
        self._manifests.forget_after(manifest.generation)
        self._kept = [one for one in self._kept if one.generation <= manifest.generation]
        self._reports.clear()
        self._gathering = False
        self._export()
        steps = manifest.moment.counters.get(("actor", STEPS_COUNTER), 0)
        _log.info("going on from generation %d, made at %d env steps", manifest.generation, steps)

    def _export(self) -> None:
        newest = self._kept[-1] if self._kept else None
        self._metrics.generation.set(newest.generation if newest else 0)
        self._metrics.generation_time_seconds.set(newest.time if newest else 0)


def counters_at(totals: books.Totals, held: Mapping[tuple[str, int], Mapping[str, float]]) -> dict[tuple[str, str], float]:
    """The totals of a run that goes on from these checkpoints.

    What is not in them has never been: an item that was under way to a shard was not collected, a sample that was under way to
    the learner was not served. So the books are even: collected = inserted + dropped, served = trained + discarded.
    """
    counters = books.of_the_network(totals)
    for role, name in list(counters):
        if role == "learner" and (name.startswith(LOST) or name == "updates_lost"):
            del counters[role, name]
    learner = held["learner", 0]
    for name, value in learner.items():
        counters["learner", name] = value
    counters["learner", "samples_served"] = learner.get(TRAINED, 0.0) + counters.get(("learner", "samples_discarded"), 0.0)
    names = ("transitions_collected", INSERTED, "transitions_dropped", LOST_WITH_ACTORS)
    collected, confirmed, dropped, lost = (totals.get(("actor", name), 0.0) for name in names)
    found = inserted_after_all(collected, confirmed, dropped, lost, totals.get(("replay", INSERTED), 0.0))
    if found:
        counters["actor", "transitions_dropped"] -= found
        counters["actor", LOST_WITH_ACTORS] -= found
    inserted = 0.0
    for (role, shard), counts in held.items():
        if role == "replay":
            inserted += counts[INSERTED]
            counters["replay", f"{INSERTED}.{shard}"] = counters["actor", f"{INSERTED}.{shard}"] = counts[INSERTED]
    steps_before = counters.get(("actor", STEPS_COUNTER), 0.0)
    collected = inserted + counters.get(("actor", "transitions_dropped"), 0.0)
    counters["replay", INSERTED] = counters["actor", INSERTED] = inserted
    counters["actor", "transitions_collected"] = counters["actor", STEPS_COUNTER] = collected
    frames = counters.get(("actor", "frames"), 0.0)
    if steps_before:
        counters["actor", "frames"] = round(frames / steps_before * collected)
    return counters
