"""Generations over real gRPC: ordered, gathered from the members, committed, and gone back to as a whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from safetensors.numpy import save

from sbrl import rpc
from sbrl.black_box import Record
from sbrl.credentials import Credentials
from sbrl.errors import RunError
from sbrl.fleet import FleetClient
from sbrl.fleet_member import FleetMember
from sbrl.metrics import CoordinatorMetrics
from sbrl.v1 import fleet_pb2
from sbrl.v1.fleet_pb2 import GetStatusResponse
from sbrl.v1.fleet_pb2_grpc import FleetStub
from sbrl.weights import StaleEpochError, WeightsClient
from services.coordinator.books import Plan
from services.coordinator.fleet import LEASE_SECONDS, Fleet
from services.coordinator.server import add_services
from services.coordinator.snapshots import Snapshots
from services.coordinator.store import Store
from services.coordinator.weights_store import WeightsStore

TARGET = 10_000
PLAN = Plan(2.0, (50, 50), generation_seconds=3600.0, keep_generations=2)
DIGEST = "0" * 64


class Clock:
    """Seconds that pass only when told to: no lease ends for want of a beat."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Run:
    """A coordinator, and the members of a run with two shards, which count what they are told to."""

    def __init__(self, directory: Path, plan: Plan = PLAN, resume: int | None = None) -> None:
        self.registry = CollectorRegistry()
        metrics = CoordinatorMetrics(self.registry)
        self.store = Store(directory / "state.sqlite")
        self.clock = Clock()
        snapshots = Snapshots(self.store, directory, plan, metrics, self.clock)
        if resume is not None:
            snapshots.resume(resume)
        fleet = Fleet(self.store, TARGET, metrics, snapshots, plan, clock=self.clock)
        self.server = rpc.make_server(16, "test", Credentials())
        self.address = f"127.0.0.1:{rpc.bind(self.server, '127.0.0.1', 0, 'test', Credentials())}"
        add_services(self.server, self.store, WeightsStore(directory, self.store), fleet, metrics)
        self.server.start()
        self.client = FleetClient(self.address)
        self.counts: dict[str, dict[str, float]] = {}
        self.gauges: dict[str, dict[str, float]] = {}
        self.members: dict[str, FleetMember] = {}
        for name in ("learner-0", "replay-0", "replay-1", "actor-0"):
            self.start(name)

    def start(self, name: str) -> FleetMember:
        """A process of a role, anew."""
        counts: dict[str, float] = {}
        gauges: dict[str, float] = {}
        role, _, index = name.partition("-")
        member = FleetMember(
            self.address, role, name, counters=lambda: dict(counts), gauges=lambda: dict(gauges), index=int(index)
        )
        member.beat_now()
        self.counts[name], self.gauges[name], self.members[name] = counts, gauges, member
        return member

    def count(self, name: str, **counters: float) -> None:
        self.counts[name].update({counter.replace("__", "."): value for counter, value in counters.items()})
        self.members[name].beat_now()

    def work(self, inserted: tuple[int, int], trained: tuple[int, int]) -> None:
        """Everybody counts so much, and reports it."""
        for shard, count in enumerate(inserted):
            self.count(f"replay-{shard}", **{"transitions_inserted": count, f"transitions_inserted__{shard}": count})
        parts = {f"transitions_inserted__{shard}": count for shard, count in enumerate(inserted)}
        collected = sum(inserted)
        self.count("actor-0", env_steps=collected, transitions_collected=collected, transitions_inserted=collected, **parts)
        learned = {f"samples_trained__{shard}": count for shard, count in enumerate(trained)}
        total = sum(trained)
        self.count("learner-0", updates=total / 8, samples_trained=total, samples_served=total, **learned)

    def report(self, generation: int, name: str, checkpoint: str) -> None:
        counts = self.counts[name]
        held = {key: counts[key] for key in counts if key.startswith(("transitions_inserted", "samples_trained", "updates"))}
        self.members[name].report_checkpoint(generation, checkpoint, 10, DIGEST, held)

    def generation(self, mark: str) -> int:
        """A complete one, whose checkpoints are named by `mark`."""
        generation = self.members["learner-0"].order_generation()
        for name in ("learner-0", "replay-0", "replay-1"):
            self.report(generation, name, f"{name}-{mark}")
        return generation

    def status(self) -> GetStatusResponse:
        return self.client.status()

    def value(self, name: str) -> float:
        found = self.registry.get_sample_value(f"sbrl_coordinator_{name}")
        assert found is not None, name
        return found

    def stop(self) -> None:
        self.client.close()
        self.server.stop(0).wait()
        self.store.close()


@contextmanager
def running(directory: Path, plan: Plan = PLAN, resume: int | None = None) -> Iterator[Run]:
    run = Run(directory, plan, resume)
    try:
        yield run
    finally:
        run.stop()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with running(tmp_path) as run:
        yield run


def test_a_generation_is_complete_when_the_last_member_has_reported(run: Run) -> None:
    run.work(inserted=(150, 90), trained=(160, 80))
    generation = run.members["learner-0"].order_generation()
    assert run.members["replay-0"].beat_now().generation == generation
    for name in ("replay-1", "learner-0"):
        run.report(generation, name, "x")
        run.report(generation, name, "x")  # an answer that was lost
    status = run.status()
    assert (status.generation_ordered, len(status.generations)) == (generation, 0)
    run.report(generation, "replay-0", "x")
    run.report(generation, "replay-0", "x")
    (kept,) = run.status().generations
    assert (kept.generation, kept.env_steps, kept.updates) == (generation, 240, 30)
    assert kept.time == pytest.approx(time.time(), abs=600)
    assert run.value("generation") == generation
    with pytest.raises(RunError, match="not wanted"):
        run.report(generation + 1, "replay-0", "x")
    with pytest.raises(RunError, match="not wanted"):
        run.members["actor-0"].report_checkpoint(generation, "x", 1, DIGEST, {})


def test_generations_are_ordered_in_time_and_one_left_open_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path, PLAN._replace(generation_seconds=0.0)) as run:
        first = run.members["replay-0"].beat_now().generation
        assert first > 0
        run.report(first, "replay-1", "x")
        assert run.members["replay-0"].beat_now().generation == first  # it may take longer than the interval
        monkeypatch.setattr("services.coordinator.snapshots.PATIENCE_SECONDS", 0.0)
        assert run.members["replay-0"].beat_now().generation > first
        with pytest.raises(RunError, match="not wanted"):
            run.report(first, "replay-0", "x")
        assert run.value("generations_given_up_total") == 1
        run.members["replay-1"].leave()
        absent = run.members["replay-0"].beat_now().generation
        assert run.members["replay-0"].beat_now().generation == absent  # without all shards there is none to be had


def test_a_generation_in_the_making_asks_until_it_has_every_part(tmp_path: Path) -> None:
    """Whoever is killed before its report, the successor is asked; after the coordinator, all are."""

    def wanted(run: Run) -> dict[str, bool]:
        return {name: member.beat_now().checkpoint_wanted for name, member in run.members.items()}

    with running(tmp_path) as run:
        run.work(inserted=(150, 90), trained=(160, 80))
        assert not any(wanted(run).values())
        generation = run.members["learner-0"].order_generation()
        assert wanted(run) == {"learner-0": True, "replay-0": True, "replay-1": True, "actor-0": False}
        run.report(generation, "learner-0", "learner-0-a")
        assert wanted(run) == {"learner-0": False, "replay-0": True, "replay-1": True, "actor-0": False}
        run.start("replay-1")
        assert wanted(run)["replay-1"]
    with running(tmp_path) as run:
        run.work(inserted=(150, 90), trained=(160, 80))
        assert wanted(run) == {"learner-0": True, "replay-0": True, "replay-1": True, "actor-0": False}
        for name in ("learner-0", "replay-0", "replay-1"):
            run.report(generation, name, f"{name}-b")
        assert not any(wanted(run).values())
        assert [one.generation for one in run.status().generations] == [generation]
    with running(tmp_path) as run:
        assert not any(wanted(run).values())


def test_a_shard_that_lost_its_lease_and_lives_is_not_settled(run: Run) -> None:
    """It will report what it inserted itself."""
    run.work(inserted=(150, 90), trained=(160, 80))
    run.count("actor-0", transitions_inserted=250, transitions_inserted__0=160, transitions_collected=250)
    request = fleet_pb2.JoinRequest(role="replay", name="replay-0", index=0)
    request.earlier_incarnation = run.members["replay-0"].incarnation
    with grpc.insecure_channel(run.address) as channel:
        FleetStub(channel).Join(request)
    assert run.status().totals["replay.transitions_inserted.0"] == 150


def test_a_checkpoint_of_the_lease_before_completes_a_generation(run: Run) -> None:
    """The shard has reported more since: what it saved is less than nothing of what it counts under its new lease."""
    run.work(inserted=(150, 90), trained=(160, 80))
    generation = run.members["learner-0"].order_generation()
    for name in ("learner-0", "replay-1"):
        run.report(generation, name, f"{name}-a")
    held = dict(run.counts["replay-0"])
    run.count("replay-0", transitions_inserted=400, transitions_inserted__0=400)
    lose_lease(run, "replay-0")
    assert run.members["replay-0"].beat_now().checkpoint_wanted
    run.members["replay-0"].report_checkpoint(generation, "replay-0-a", 10, DIGEST, held)
    (kept,) = run.status().generations
    assert (kept.generation, kept.env_steps) == (generation, 240)
    with pytest.raises(RunError, match="transitions_inserted"):  # less than nothing of the run's is refused
        run.members["replay-0"].report_checkpoint(
            run.members["learner-0"].order_generation(), "x", 10, DIGEST, {"transitions_inserted": -1.0}
        )


def lose_lease(run: Run, name: str) -> None:
    """The member is silent for too long, the others are not; then it joins again, as the process that it is."""
    incarnation = run.members[name].incarnation
    for _ in range(int(LEASE_SECONDS) + 1):
        run.clock.now += 1
        for other in run.members.keys() - {name}:
            run.members[other].beat_now()
    run.members[name].beat_now()
    assert run.members[name].incarnation > incarnation


@pytest.mark.parametrize("dies", [True, False])
def test_what_was_under_way_when_a_lease_ended_is_accounted_for(run: Run, dies: bool) -> None:
    """The process goes on under another lease, and is killed or done later."""
    run.work(inserted=(150, 90), trained=(160, 80))
    run.count("actor-0", transitions_collected=260)
    run.count("learner-0", samples_served=256)
    for name in ("actor-0", "learner-0"):
        lose_lease(run, name)
    run.count("actor-0", transitions_collected=300, transitions_inserted=250, transitions_dropped=5)
    run.count("learner-0", samples_served=288, samples_trained=256, samples_trained__0=176, samples_discarded=8)
    if not dies:
        run.count("actor-0", transitions_inserted=295)
        run.count("learner-0", samples_discarded=32)
    for name in ("actor-0", "learner-0"):
        run.start(name)
    totals = run.status().totals
    assert totals["actor.transitions_collected"] == 300
    assert totals["actor.transitions_dropped"] == (50 if dies else 5)
    assert totals["actor.transitions_inserted"] == (250 if dies else 295)
    assert (totals["learner.samples_served"], totals["learner.samples_discarded"]) == (288, 32)


def test_what_a_killed_actor_had_inserted_all_the_same_is_not_dropped_as_well(tmp_path: Path) -> None:
    """It had 20 under way, of which the shards have 12; nothing is collected twice by going back."""
    with running(tmp_path) as run:
        run.work(inserted=(150, 90), trained=(160, 80))
        run.count("actor-0", transitions_collected=260, env_steps=260)
        run.start("actor-0")
        run.count("replay-0", transitions_inserted=162, transitions_inserted__0=162)
        assert run.status().totals["actor.transitions_dropped"] == 20
        run.generation("a")
    with running(tmp_path, resume=1) as run:
        totals = run.status().totals
        assert totals["actor.transitions_inserted"] == totals["replay.transitions_inserted"] == 252
        assert totals["actor.transitions_dropped"] == totals["actor.transitions_dropped.member_lost"] == 8
        assert totals["actor.env_steps"] == totals["actor.transitions_collected"] == 260


def test_resume_goes_back_to_the_newest_generation_with_all_counts_even(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        run.work(inserted=(150, 90), trained=(160, 80))
        run.generation("a")
        run.work(inserted=(350, 290), trained=(560, 480))
        newest = run.generation("b")
        run.work(inserted=(400, 300), trained=(640, 500))
        run.count("actor-0", transitions_collected=720, env_steps=721)  # 20 are under way
        incarnation = run.members["actor-0"].incarnation
    with running(tmp_path, resume=1) as run:
        status = run.status()
        totals = status.totals
        assert status.timeline == 1
        assert [one.generation for one in status.generations][-1] == newest
        assert totals["actor.env_steps"] == totals["actor.transitions_collected"] == 640
        assert totals["actor.transitions_inserted"] == totals["replay.transitions_inserted"] == 640
        assert totals["learner.samples_trained"] == totals["learner.samples_served"] == 1040
        assert totals["learner.updates"] == 130
        assert totals["replay.samples_due"] == (300 + 240) * 2
        assert [run.members[name].base_checkpoint for name in ("learner-0", "replay-1", "actor-0")] == [
            *("learner-0-b", "replay-1-b", "")
        ]
        assert run.members["replay-0"].joined_with.samples_owed == 300 * 2 - 560
        assert run.members["replay-1"].joined_with.samples_owed == 240 * 2 - 480
        assert run.members["actor-0"].incarnation > incarnation
        run.work(inserted=(10, 10), trained=(8, 8))
        assert run.status().totals["actor.env_steps"] == 660
    with running(tmp_path, resume=1) as run:  # the coordinator was killed and started again with the same command line
        assert run.status().totals["actor.env_steps"] == 660
    with running(tmp_path, resume=2) as run:
        assert run.status().totals["actor.env_steps"] == 640


def test_a_part_that_cannot_be_read_takes_all_back_a_generation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr("sbrl.fleet_member.os._exit", ended.append)
    with running(tmp_path) as run:
        run.work(inserted=(150, 90), trained=(160, 80))
        earlier = run.generation("a")
        run.work(inserted=(350, 290), trained=(560, 480))
        run.generation("b")
    with running(tmp_path, resume=1) as run:
        run.members["replay-1"].refuse_checkpoint("chunks.tfrecord differs")
        run.members["learner-0"].refuse_checkpoint("of the same timeline: once is enough")
        status = run.status()
        assert (status.timeline, status.totals["actor.env_steps"]) == (2, 240)
        assert [one.generation for one in status.generations] == [earlier]
        # A member of the course of events that was given up ends itself, and what it counted since is not counted.
        run.counts["actor-0"]["env_steps"] = 9000
        run.members["actor-0"].beat_now()
        assert ended == [75]
        assert run.status().totals["actor.env_steps"] == 240
        assert run.start("learner-0").base_checkpoint == "learner-0-a"
        assert run.start("replay-1").base_checkpoint == "replay-1-a"
        run.start("replay-0").refuse_checkpoint("so is the one before")
        assert run.start("replay-0").base_checkpoint == ""  # there is none left: each goes on from what it has
        assert run.status().timeline == 3
        assert run.value("generations_refused_total") == 2


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def swap_content(path: Path) -> None:
    path.write_text(
        path.read_text(encoding="utf-8").replace('"actor.env_steps": 640', '"actor.env_steps": 999'), encoding="utf-8"
    )


@pytest.mark.parametrize("harm", [damage, swap_content, Path.unlink])
def test_a_corrupt_manifest_falls_back_to_the_one_before(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    with running(tmp_path) as run:
        run.work(inserted=(150, 90), trained=(160, 80))
        run.generation("a")
        run.work(inserted=(350, 290), trained=(560, 480))
        run.generation("b")
    manifests = sorted((tmp_path / "generations").glob("*.json"))
    assert len(manifests) == 2
    harm(manifests[-1])
    with running(tmp_path, resume=1) as run:
        assert run.status().totals["actor.env_steps"] == 240
        assert run.members["replay-0"].base_checkpoint == "replay-0-a"


def test_no_more_generations_are_kept_than_asked_for(run: Run, tmp_path: Path) -> None:
    run.work(inserted=(150, 90), trained=(160, 80))
    generations = [run.generation(str(k)) for k in range(4)]
    assert [one.generation for one in run.status().generations] == generations[-2:]
    assert run.members["replay-0"].beat_now().kept_generations == tuple(generations[-2:])
    assert len(list((tmp_path / "generations").iterdir())) == 2


def test_what_a_killed_shard_had_not_reported_is_counted_when_it_is_back(run: Run) -> None:
    run.work(inserted=(150, 90), trained=(160, 80))
    run.count("actor-0", transitions_inserted=250, transitions_inserted__0=160, transitions_collected=250)
    again = run.start("replay-0")
    assert run.status().totals["replay.transitions_inserted.0"] == 160
    assert run.status().totals["replay.transitions_inserted"] == 250
    assert again.joined_with.samples_owed == 110 * 2 - 160


def test_what_a_killed_actor_and_learner_had_under_way_is_given_up(run: Run) -> None:
    run.work(inserted=(150, 90), trained=(160, 80))
    run.count("actor-0", transitions_collected=260, transitions_dropped=3)
    run.count("learner-0", samples_served=256)
    for name in ("actor-0", "learner-0"):
        run.start(name)
    totals = run.status().totals
    assert totals["actor.transitions_dropped"] == 3 + 17
    assert totals["actor.transitions_dropped.member_lost"] == 17
    assert totals["actor.transitions_collected"] == totals["actor.transitions_inserted"] + totals["actor.transitions_dropped"]
    assert totals["learner.samples_discarded"] == 16
    assert totals["learner.samples_served"] == totals["learner.samples_trained"] + totals["learner.samples_discarded"]


def test_a_killed_actors_last_counts_come_from_what_it_had_written_down(run: Run) -> None:
    run.work(inserted=(150, 90), trained=(160, 80))
    written = {"env_steps": 260.0, "transitions_collected": 256.0, "transitions_inserted": 245.0, "transitions_dropped": 2.0}
    record = Record(run.members["actor-0"].incarnation, written)
    for _ in range(2):  # the successor may be killed before it joins, too
        successor = FleetMember(run.address, "actor", "actor-0", counters=lambda: {"env_steps": 0.0})
        successor.settle_for(record)
        successor.beat_now()
        totals = run.status().totals
        assert totals["actor.env_steps"] == 260
        assert totals["actor.transitions_dropped"] == 2 + (256 - 245 - 2)
        assert (
            totals["actor.transitions_collected"] == totals["actor.transitions_inserted"] + totals["actor.transitions_dropped"]
        )
    stranger = FleetMember(run.address, "actor", "actor-1", counters=lambda: {"env_steps": 0.0})
    stranger.settle_for(Record(10**6, {"env_steps": 5.0}))  # of another run
    stranger.beat_now()
    assert run.status().totals["actor.env_steps"] == 260
    # Nor is a lease of that number that another member has.
    run.work(inserted=(150, 90), trained=(160, 80))
    stranger = FleetMember(run.address, "actor", "actor-2", counters=lambda: {"env_steps": 0.0})
    stranger.settle_for(Record(run.members["replay-0"].incarnation, {"transitions_inserted": 5000.0}))
    stranger.beat_now()
    assert run.status().totals["replay.transitions_inserted"] == 240
    assert run.members["replay-0"].beat_now().timeline == 0  # its lease goes on


def test_a_shard_is_told_of_a_drift_only_while_the_learner_holds_still(run: Run) -> None:
    run.work(inserted=(150, 90), trained=(160, 80))
    shard = run.members["replay-0"]
    run.gauges["replay-0"]["samples_owed"] = 100 * 2 - 200  # its limiter has served 40 more than were trained on
    assert shard.beat_now().limiter_correction is None
    assert run.value("samples_owed") == 40
    run.gauges["learner-0"]["settling"] = 1
    run.members["learner-0"].beat_now()
    assert shard.beat_now().limiter_correction == 40
    run.gauges["replay-0"]["samples_owed"] += 40
    assert shard.beat_now().limiter_correction is None


def test_a_changed_ratio_holds_from_where_it_was_changed(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        run.work(inserted=(150, 90), trained=(160, 80))
    with running(tmp_path, PLAN._replace(samples_per_insert=8.0)) as run:
        assert run.status().totals["replay.samples_due"] == (100 + 40) * 2
        run.work(inserted=(10, 5), trained=(0, 0))
        assert run.status().totals["replay.samples_due"] == (100 + 40) * 2 + 15 * 8
    with running(tmp_path) as run:
        run.work(inserted=(1, 0), trained=(0, 0))
        assert run.status().totals["replay.samples_due"] == (100 + 40) * 2 + 15 * 8 + 2


def test_a_replaced_learner_can_neither_report_nor_publish(run: Run) -> None:
    weights = WeightsClient(run.address)
    old = run.members["learner-0"]
    old.hold_epoch(weights.acquire_epoch("node-a:12")[0])
    run.work(inserted=(150, 90), trained=(160, 80))
    new = run.start("learner-0")
    epoch, _ = weights.acquire_epoch("node-b:34")
    new.hold_epoch(epoch)
    status = run.status()
    assert (status.learner_epoch, status.learner_holder) == (epoch, "node-b:34")
    assert run.value("learner_epoch") == epoch
    # The old one was stopped for a while, wakes up and goes on: by its lease, by a last report, by weights.
    with pytest.raises(StaleEpochError, match="another learner has taken over"):
        old.beat_now()
    with pytest.raises(StaleEpochError):
        old.check_fenced()
    old.leave()
    with pytest.raises(StaleEpochError):
        weights.publish(save({"w": np.ones(3, np.float32)}), epoch - 1, updates=1)
    assert run.status().totals["learner.samples_trained"] == 240
    new.beat_now()
    weights.close()
