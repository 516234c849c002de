"""The coordinator's record of the learner's progress, and its reports on ended actors to the learner."""

from __future__ import annotations

import math
import queue
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from sbrl.coordination import membership
from sbrl.coordination.fleet import Instructions
from sbrl.coordination.weights import WeightsClient
from sbrl.rpc import channels
from sbrl.v1 import fleet_pb2, fleet_pb2_grpc
from sbrl.v1.fleet_pb2 import SAMPLING_CACHED, EndedActor, LearnerProgress, ShardProgress
from services.coordinator.fleet import LEASE_SECONDS
from services.coordinator.leases import FORGET_SECONDS
from services.coordinator.store import Store
from tests.coordinator import WAIT, Clock, heartbeat, join, pass_time, serve

PROGRESS = LearnerProgress(
    updates=7,
    samples_trained=56,
    samples_due=60.5,
    max_priority=3.0,
    shards=[ShardProgress(received=40, lost=6, recovered=2, answers=True), ShardProgress(received=2, duplicates=9)],
    lost_with_actors=5,
    sampling=SAMPLING_CACHED,
)


@pytest.fixture
def term(weights: WeightsClient) -> int:
    return weights.acquire_term("learner")[0]


def report(
    fleet: fleet_pb2_grpc.FleetStub, incarnation: int, term: int, progress: LearnerProgress = PROGRESS, call: str = "Heartbeat"
) -> fleet_pb2.HeartbeatResponse:
    request = fleet_pb2.HeartbeatRequest(incarnation=incarnation, term=term, progress=progress)
    response: fleet_pb2.HeartbeatResponse = getattr(fleet, call)(request, timeout=WAIT)
    return response


def kept(fleet: fleet_pb2_grpc.FleetStub) -> LearnerProgress | None:
    status = fleet.GetStatus(fleet_pb2.GetStatusRequest(), timeout=WAIT)
    return status.progress if status.HasField("progress") else None


@pytest.mark.parametrize("call", ["Heartbeat", "Leave"])
def test_progress_is_kept_and_survives_the_coordinator(tmp_path: Path, call: str) -> None:
    with serve(tmp_path) as address, channels.open_channel(address) as channel:
        fleet, weights = fleet_pb2_grpc.FleetStub(channel), WeightsClient(address)
        assert kept(fleet) is None
        lease = join(fleet, "l", role="learner")
        report(fleet, lease.incarnation, weights.acquire_term("l")[0], call=call)
        assert kept(fleet) == PROGRESS
        weights.close()
    with serve(tmp_path) as address, channels.open_channel(address) as channel:
        assert kept(fleet_pb2_grpc.FleetStub(channel)) == PROGRESS


def test_actors_are_told_what_the_learner_has_chosen(fleet, term) -> None:
    learner, actor = join(fleet, "l", role="learner"), join(fleet, "a")
    assert (heartbeat(fleet, actor).initial_priority, heartbeat(fleet, actor).sampling) == (1.0, 0)
    report(fleet, learner.incarnation, term)
    told = Instructions.of(heartbeat(fleet, actor), step_base=0)
    assert (told.initial_priority, told.sampling) == (3.0, "cached")
    report(fleet, learner.incarnation, term, LearnerProgress(max_priority=0.25))
    assert heartbeat(fleet, actor).initial_priority == 1.0


def test_a_member_that_waits_for_the_choice_hears_of_it_before_its_next_heartbeat_is_due(
    address, fleet, term, monkeypatch
) -> None:
    monkeypatch.setattr(membership, "HEARTBEAT_SECONDS", 10 * WAIT)
    learner, shard = join(fleet, "l", role="learner"), membership.FleetMember(address, "replay", "r", counters=dict)
    shard.start()
    found = queue.SimpleQueue[str]()
    stop = threading.Event()
    waiting = threading.Thread(target=lambda: found.put(shard.wait_sampling("auto", stop)), daemon=True)
    try:
        shard.wait_joined(WAIT)
        waiting.start()
        report(fleet, learner.incarnation, term)
        assert found.get(timeout=WAIT) == "cached"
    finally:
        stop.set()
        shard.leave()


@pytest.mark.parametrize("call", ["Heartbeat", "Leave"])
def test_the_progress_of_a_learner_that_was_replaced_is_refused(fleet, weights, term, call) -> None:
    first = join(fleet, "l", role="learner")
    report(fleet, first.incarnation, term)
    newest = weights.acquire_term("another")[0]
    with pytest.raises(grpc.RpcError, match="another learner has taken over") as error:
        report(fleet, first.incarnation, term, LearnerProgress(updates=100), call)
    assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert kept(fleet) == PROGRESS
    second = join(fleet, "l", role="learner")
    report(fleet, second.incarnation, newest, LearnerProgress(updates=5))
    assert kept(fleet) == LearnerProgress(updates=5)


def test_whoever_holds_no_term_has_no_progress(fleet, term) -> None:
    learner, actor = join(fleet, "l", role="learner"), join(fleet, "a")
    report(fleet, learner.incarnation, 0)
    report(fleet, actor.incarnation, term)
    assert kept(fleet) is None
    fleet.Heartbeat(fleet_pb2.HeartbeatRequest(incarnation=learner.incarnation, term=term), timeout=WAIT)  # none to report yet
    assert kept(fleet) is None


@pytest.mark.parametrize("call", ["Heartbeat", "Leave"])
@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (LearnerProgress(samples_due=math.nan), "progress.samples_due is nan"),
        (LearnerProgress(samples_due=math.inf), "progress.samples_due is inf"),
        (LearnerProgress(samples_due=-1.0), "progress.samples_due is -1.0"),
        (LearnerProgress(max_priority=math.nan), "progress.max_priority is nan"),
        (LearnerProgress(max_priority=-math.inf), "progress.max_priority is -inf"),
        (LearnerProgress(updates=2**60), "a count of 1152921504606846976"),
        (LearnerProgress(lost_with_actors=2**64 - 1), "a count of 18446744073709551615"),
        (LearnerProgress(shards=[ShardProgress(received=2**60)]), "a count of"),
        (LearnerProgress(shards=[ShardProgress(lost=3, recovered=4)]), "4 of a shard's transitions are recovered, of 3 lost"),
    ],
)
def test_progress_that_cannot_be_is_refused_and_changes_nothing(fleet, term, bad, words, call) -> None:
    learner = join(fleet, "l", role="learner")
    report(fleet, learner.incarnation, term)
    with pytest.raises(grpc.RpcError, match=words) as error:
        report(fleet, learner.incarnation, term, bad, call)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert kept(fleet) == PROGRESS
    report(fleet, learner.incarnation, term)  # its lease holds


# Actors that are gone


def ended(fleet, learner) -> list[EndedActor]:
    return list(heartbeat(fleet, learner).ended_actors)


def test_an_actor_is_gone_when_its_lease_is_and_its_last_counts_are_told(fleet, clock) -> None:
    learner, left, lost, alive = join(fleet, "l", role="learner"), *(join(fleet, name) for name in "abc")
    for lease, steps in ((left, 10), (lost, 20), (alive, 30)):
        heartbeat(fleet, lease, env_steps=steps)
    assert ended(fleet, learner) == []
    counters = {"env_steps": 15.0, "episodes_cut": 2.0}
    fleet.Leave(fleet_pb2.HeartbeatRequest(incarnation=left.incarnation, counters=counters), timeout=WAIT)
    gone = [EndedActor(incarnation=left.incarnation, transitions=13)]  # a step that was cut off is not a transition
    assert ended(fleet, learner) == gone
    assert not heartbeat(fleet, alive).ended_actors  # for learners only
    for _ in range(2):
        pass_time(clock, fleet, LEASE_SECONDS / 2 + 1)
        heartbeat(fleet, learner)
        heartbeat(fleet, alive)
    assert ended(fleet, learner) == [*gone, EndedActor(incarnation=lost.incarnation, transitions=20)]
    # The next process with that name finds more in its black box than the coordinator had heard of.
    died = fleet_pb2.HeartbeatRequest(
        incarnation=lost.incarnation, counters={"env_steps": 24.0}, died=True, role="actor", name="b"
    )
    fleet.Leave(died, timeout=WAIT)
    assert ended(fleet, learner)[1].transitions == 24


def test_an_actor_with_counts_that_cannot_be_costs_the_learner_nothing(fleet) -> None:
    learner, actor = join(fleet, "l", role="learner"), join(fleet, "a")
    fleet.Leave(fleet_pb2.HeartbeatRequest(incarnation=actor.incarnation, counters={"episodes_cut": 30.0}), timeout=WAIT)
    assert ended(fleet, learner) == [EndedActor(incarnation=actor.incarnation, transitions=0)]


def test_an_actor_that_lost_its_lease_and_joined_again_is_one(fleet, clock) -> None:
    """Its streams continue, with the incarnation that it started with."""
    learner, first = join(fleet, "l", role="learner"), join(fleet, "a")
    heartbeat(fleet, first, env_steps=100)
    for _ in range(2):
        pass_time(clock, fleet, LEASE_SECONDS / 2 + 1)
        heartbeat(fleet, learner)
    assert ended(fleet, learner) == [EndedActor(incarnation=first.incarnation, transitions=100)]
    second = join(fleet, "a", earlier_incarnation=first.incarnation)
    assert ended(fleet, learner) == []
    heartbeat(fleet, second, env_steps=7)
    third = join(fleet, "a", earlier_incarnation=second.incarnation)
    heartbeat(fleet, third, env_steps=5)
    fleet.Leave(fleet_pb2.HeartbeatRequest(incarnation=third.incarnation, counters={"env_steps": 6.0}), timeout=WAIT)
    assert ended(fleet, learner) == [EndedActor(incarnation=first.incarnation, transitions=113)]
    other = join(fleet, "a")  # another process of that name
    heartbeat(fleet, other, env_steps=1)
    fleet.Leave(fleet_pb2.HeartbeatRequest(incarnation=other.incarnation, counters={"env_steps": 1.0}), timeout=WAIT)
    assert ended(fleet, learner) == [
        EndedActor(incarnation=first.incarnation, transitions=113),
        EndedActor(incarnation=other.incarnation, transitions=1),
    ]


def test_actors_that_are_gone_are_told_of_for_an_hour_also_after_a_restart(tmp_path: Path) -> None:
    with serve(tmp_path, Clock()) as address, channels.open_channel(address) as channel:
        fleet = fleet_pb2_grpc.FleetStub(channel)
        actor = join(fleet, "a")
        fleet.Leave(fleet_pb2.HeartbeatRequest(incarnation=actor.incarnation, counters={"env_steps": 9.0}), timeout=WAIT)
    with serve(tmp_path, Clock()) as address, channels.open_channel(address) as channel:
        fleet = fleet_pb2_grpc.FleetStub(channel)
        learner = join(fleet, "l", role="learner")
        assert learner.instructions.ended_actors == ended(fleet, learner)
        assert ended(fleet, learner) == [EndedActor(incarnation=actor.incarnation, transitions=9)]
    store = Store(tmp_path / "state.sqlite")
    record = store.lease(actor.incarnation)
    assert record is not None
    seen = record.seen_time
    assert [one.incarnation for one in store.ended_actors(since=seen - FORGET_SECONDS)] == [actor.incarnation]
    assert store.ended_actors(since=seen) == []
    store.close()


def test_an_hour_in_which_there_is_no_coordinator_does_not_count(tmp_path: Path) -> None:
    """As for a run that goes on from an old snapshot of its volumes."""
    with serve(tmp_path, Clock()) as address, channels.open_channel(address) as channel:
        fleet = fleet_pb2_grpc.FleetStub(channel)
        long_gone, actor, alive = (join(fleet, name) for name in "abc")
        for lease, steps in ((long_gone, 4.0), (actor, 9.0)):
            counters = {"env_steps": steps}
            fleet.Leave(fleet_pb2.HeartbeatRequest(incarnation=lease.incarnation, counters=counters), timeout=WAIT)
    with closing(sqlite3.connect(tmp_path / "state.sqlite")) as database, database:
        database.execute("UPDATE leases SET seen_time = seen_time - 86400")
        database.execute(f"UPDATE leases SET seen_time = seen_time - {FORGET_SECONDS} WHERE name = 'a'")
    with serve(tmp_path, Clock()) as address, channels.open_channel(address) as channel:
        fleet = fleet_pb2_grpc.FleetStub(channel)
        learner = join(fleet, "l", role="learner")
        assert ended(fleet, learner) == [EndedActor(incarnation=actor.incarnation, transitions=9)]
        members = {member.name: member for member in fleet.GetStatus(fleet_pb2.GetStatusRequest(), timeout=WAIT).members}
        assert set(members) == {"b", "c", "l"}
        assert members["b"].seconds_since_heartbeat < WAIT
        assert members["c"].alive
        heartbeat(fleet, alive, env_steps=1)
