"""The coordinator's services over real gRPC on a free port, through the clients that the roles use."""

import itertools
import math
import threading
import time
import zlib
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from safetensors.numpy import save

from sbrl import rpc
from sbrl.credentials import Credentials
from sbrl.episode_log import EpisodeSender, LogClient
from sbrl.errors import RunError
from sbrl.fleet import FleetClient, RunState
from sbrl.fleet_member import FleetMember
from sbrl.metrics import CoordinatorMetrics
from sbrl.rpc import CoordinatorUnavailable
from sbrl.v1 import fleet_pb2, fleet_pb2_grpc, log_pb2, log_pb2_grpc, weights_pb2, weights_pb2_grpc
from sbrl.v1.fleet_pb2 import Episode, Evaluation
from sbrl.weights import StaleEpochError, WeightsClient
from services.coordinator.books import NO_SHARDS
from services.coordinator.fleet import LEASE_SECONDS, Fleet
from services.coordinator.refusal import Refused
from services.coordinator.server import add_services
from services.coordinator.snapshots import Snapshots
from services.coordinator.store import Store
from services.coordinator.weights_store import WeightsStore

TARGET = 3000
WAIT = 10.0


class Clock:
    """Seconds that pass only when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def serve(directory, clock=time.monotonic, port=0, target=TARGET, plan=NO_SHARDS):
    """Yields the address of a coordinator over `directory`."""
    store = Store(directory / "state.sqlite")
    metrics = CoordinatorMetrics(CollectorRegistry())
    server = rpc.make_server(16, "test", Credentials())
    port = rpc.bind(server, "127.0.0.1", port, "test", Credentials())
    snapshots = Snapshots(store, directory, plan, metrics, clock)
    fleet = Fleet(store, target, metrics, snapshots, plan, clock=clock)
    add_services(server, store, WeightsStore(directory, store), fleet, metrics)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()
        store.close()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def address(tmp_path, clock):
    with serve(tmp_path, clock) as address:
        yield address


@pytest.fixture
def fleet(address):
    """The raw stub, for requests that no client would make."""
    with rpc.open_channel(address) as channel:
        yield fleet_pb2_grpc.FleetStub(channel)


@pytest.fixture
def weights(address):
    client = WeightsClient(address)
    yield client
    client.close()


def join(fleet, name, role="actor", **kwargs):
    return fleet.Join(fleet_pb2.JoinRequest(role=role, name=name, **kwargs), timeout=WAIT)


def pass_time(clock, fleet, seconds):
    """A second at a time, in each of which the coordinator is heard: it does not take it that it was stopped itself."""
    while seconds > 0:
        clock.now += min(1.0, seconds)
        seconds -= 1.0
        fleet.GetStatus(fleet_pb2.GetStatusRequest(), timeout=WAIT)


def beat(fleet, lease, step_limit=0, **counters):
    request = fleet_pb2.BeatRequest(incarnation=lease.incarnation, counters=counters, step_limit=step_limit)
    return fleet.Beat(request, timeout=WAIT)


def totals(address):
    client = FleetClient(address)
    try:
        return dict(client.status().totals)
    finally:
        client.close()


def member(address, name, counters, role="actor"):
    return FleetMember(address, role, name, counters=lambda: dict(counters))


# Weights


def test_ten_megabytes_go_round(weights):
    data = save({"w": np.arange(2_621_440, dtype=np.float32)})
    epoch, newest = weights.acquire_epoch("test")
    assert newest == 0
    assert weights.fetch() is None
    assert weights.publish(data, epoch, updates=100) == 1
    fetched = weights.fetch(newer_than_version=0)
    assert (fetched.version, fetched.updates, fetched.data) == (1, 100, data)
    assert fetched.published_time == pytest.approx(time.time(), abs=WAIT)
    assert weights.fetch(newer_than_version=1) is None
    assert weights.acquire_epoch("test")[1] == 1


def test_stale_learner_is_fenced(weights):
    data = save({"w": np.zeros(3, np.float32)})
    stale, _ = weights.acquire_epoch("first")
    epoch, _ = weights.acquire_epoch("second")
    assert epoch == stale + 1
    with pytest.raises(StaleEpochError, match="another learner has taken over"):
        weights.publish(data, stale, updates=1)
    assert weights.fetch() is None
    assert weights.publish(data, epoch, updates=1) == 1


def header(data, **changes):
    fields = {"epoch": 1, "size_bytes": len(data), "crc32": zlib.crc32(data)} | changes
    return weights_pb2.PublishRequest(header=weights_pb2.WeightsHeader(**fields))


GOOD = save({"w": np.zeros(3, np.float32)})
CHUNK = weights_pb2.PublishRequest(chunk=GOOD)


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        pytest.param([], "header", id="nothing"),
        pytest.param([CHUNK], "header", id="no header"),
        pytest.param([header(GOOD, crc32=1), CHUNK], "checksum", id="corrupt"),
        pytest.param([header(GOOD), CHUNK, CHUNK], "bytes", id="too long"),
        pytest.param([header(GOOD)], "bytes", id="too short"),
        pytest.param([header(GOOD, size_bytes=2**60), CHUNK], "size_bytes", id="absurd size"),
        pytest.param([header(b"xyz"), weights_pb2.PublishRequest(chunk=b"xyz")], "safetensors", id="garbage"),
        pytest.param([header(GOOD, updates=2**64 - 1), CHUNK], "updates", id="number out of range"),
    ],
)
def test_malformed_publication_is_refused(address, weights, requests, message):
    weights.acquire_epoch("test")
    with rpc.open_channel(address) as channel, pytest.raises(grpc.RpcError, match=message) as error:
        weights_pb2_grpc.WeightsStub(channel).Publish(iter(requests), timeout=WAIT)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert weights.fetch() is None


def test_absent_coordinator_is_an_error_at_once_and_no_hang():
    client = WeightsClient("127.0.0.1:1")
    started = time.monotonic()
    with pytest.raises(CoordinatorUnavailable, match=r"127\.0\.0\.1:1 "):
        client.fetch(timeout=WAIT)
    assert time.monotonic() - started < WAIT / 2
    client.close()


# Leases


def test_indices_are_the_lowest_free_and_come_back_to_their_name(fleet, clock):
    leases = [join(fleet, name) for name in ("a", "b", "c")]
    assert [lease.index for lease in leases] == [0, 1, 2]
    assert join(fleet, "x", role="replay").index == 0  # a count of its own for each role
    pass_time(clock, fleet, LEASE_SECONDS)
    beat(fleet, leases[0])
    pass_time(clock, fleet, 1.0)  # b and c have expired
    with pytest.raises(grpc.RpcError) as error:
        beat(fleet, leases[1])
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
    again = join(fleet, "c")
    assert again.index == 2  # its old one, though 1 is free
    assert again.incarnation > leases[2].incarnation
    assert join(fleet, "d").index == 1
    assert join(fleet, "b").index == 3  # its old one is d's now
    assert join(fleet, "a").index == 0  # a restart within its lease takes its place at once
    assert join(fleet, "e", index=7).index == 7
    assert join(fleet, "f", index=7).index == 4


@pytest.mark.parametrize(
    ("role", "name", "message"), [("", "a", "unknown role"), ("chef", "a", "unknown role"), ("actor", "", "name")]
)
def test_malformed_join_is_refused(fleet, role, name, message):
    with pytest.raises(grpc.RpcError, match=message) as error:
        join(fleet, name, role=role)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, 1e300])
def test_impossible_counters_are_refused_and_count_nothing(fleet, address, value):
    lease = join(fleet, "a")
    for call in (fleet.Beat, fleet.Leave):
        with pytest.raises(grpc.RpcError, match="env_steps") as error:
            call(fleet_pb2.BeatRequest(incarnation=lease.incarnation, counters={"env_steps": value}), timeout=WAIT)
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert totals(address).get("actor.env_steps", 0) == 0


@pytest.mark.parametrize("name", ["samples_discarded.member_lost", "transitions_dropped.member_lost", "under_way_before"])
def test_what_the_coordinator_counts_itself_nobody_may_report(fleet, name):
    lease = join(fleet, "a", role="learner")
    for call in (fleet.Beat, fleet.Leave):
        with pytest.raises(grpc.RpcError, match="the coordinator's own") as error:
            call(fleet_pb2.BeatRequest(incarnation=lease.incarnation, counters={name: 60.0}), timeout=WAIT)
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("priority", [math.inf, -math.inf, math.nan])
def test_a_learners_odd_readings_reach_no_actor(fleet, priority):
    learner, actor = join(fleet, "l", role="learner"), join(fleet, "a")
    for reading, expected in ((priority, 1.0), (3.0, 3.0)):
        fleet.Beat(fleet_pb2.BeatRequest(incarnation=learner.incarnation, gauges={"max_priority": reading}), timeout=WAIT)
        assert beat(fleet, actor).initial_priority == expected


@pytest.mark.parametrize("incarnation", [0, 99, 2**64 - 1])
def test_unknown_incarnations_are_not_found(fleet, incarnation):
    for call in (fleet.Beat, fleet.Leave):
        with pytest.raises(grpc.RpcError) as error:
            call(fleet_pb2.BeatRequest(incarnation=incarnation), timeout=WAIT)
        assert error.value.code() is grpc.StatusCode.NOT_FOUND


# Counters


def test_repeated_and_overtaken_beats_count_once(fleet, address):
    lease = join(fleet, "a")
    for steps in (10, 30, 30, 20):
        beat(fleet, lease, env_steps=steps)
    assert totals(address)["actor.env_steps"] == 30


def test_no_lease_expires_while_the_coordinator_is_stopped(fleet, clock):
    """Nobody could beat: all have another lease's time."""
    first, second = join(fleet, "a"), join(fleet, "b")
    clock.now += 10 * LEASE_SECONDS
    beat(fleet, first)
    beat(fleet, second)
    pass_time(clock, fleet, LEASE_SECONDS + 1.0)
    with pytest.raises(grpc.RpcError, match="holds no lease"):
        beat(fleet, second)


def test_counters_stay_exact_when_a_lease_expires(tmp_path, clock):
    with serve(tmp_path, clock) as address:
        counters = {"env_steps": 0, "episodes": 1}
        actor = member(address, "a", counters)
        first = actor.beat_now() and actor.incarnation
        counters["env_steps"] = 100
        actor.beat_now()
        with rpc.open_channel(address) as channel:
            pass_time(clock, fleet_pb2_grpc.FleetStub(channel), LEASE_SECONDS + 1.0)
        counters["env_steps"] = 150  # after the last beat under the old lease
        instructions = actor.beat_now()
        assert actor.incarnation > first
        assert (instructions.env_steps, instructions.step_limit) == (150, TARGET)
        counters["env_steps"] = 175
        actor.beat_now()
        actor.leave()
        assert totals(address) == {"actor.env_steps": 175, "actor.episodes": 1, "replay.samples_due": 0}


def test_counters_stay_exact_when_joining_again_fails_at_first(tmp_path, clock, monkeypatch):
    with serve(tmp_path, clock) as address:
        counters = {"env_steps": 100}
        actor = member(address, "a", counters)
        actor.beat_now()
        actor.beat_now()
        with rpc.open_channel(address) as channel:
            pass_time(clock, fleet_pb2_grpc.FleetStub(channel), LEASE_SECONDS + 1.0)
        counters["env_steps"] = 150
        with monkeypatch.context() as patch:
            patch.setattr(Fleet, "join", refuse)
            with pytest.raises(CoordinatorUnavailable):
                actor.beat_now()  # the ended lease is settled, the new one is not given
        counters["env_steps"] = 160
        assert actor.beat_now().state is RunState.RUNNING
        actor.leave()
        assert totals(address) == {"actor.env_steps": 160, "replay.samples_due": 0}


def refuse(fleet, request):
    raise Refused(grpc.StatusCode.UNAVAILABLE, "not now")


def test_counters_leases_and_state_survive_a_restart_of_the_coordinator(tmp_path):
    counters = {"env_steps": 100}
    with serve(tmp_path) as address:
        port = int(address.rpartition(":")[2])
        weights = WeightsClient(address)
        assert weights.acquire_epoch("test") == (1, 0)
        weights.publish(GOOD, 1, updates=5)
        actor = member(address, "a", counters)
        actor.start()
        actor.wait_joined(WAIT)
        incarnation = actor.incarnation
    counters["env_steps"] = 250  # while it is away
    with serve(tmp_path, port=port) as address:
        deadline = time.monotonic() + WAIT
        while actor.instructions.env_steps != 250 and time.monotonic() < deadline:
            actor.wait_instructions(timeout=WAIT)
        assert actor.incarnation == incarnation
        counters["env_steps"] = 260
        actor.leave()
        assert totals(address)["actor.env_steps"] == 260
        fetched = weights.fetch()
        assert fetched is not None
        assert fetched.data == GOOD
        assert weights.acquire_epoch("test") == (2, 1)
        weights.close()


# The step allowance


@pytest.mark.parametrize("num_envs", [1, 8])
def test_three_actors_collect_exactly_the_target(address, num_envs):
    counters = [{"env_steps": 0} for _ in range(3)]
    all_joined = threading.Barrier(3, timeout=30)  # else the first may be done before the last is there

    def act(i):
        actor = member(address, f"actor-{i}", counters[i])
        deadline = time.monotonic() + 30
        instructions = actor.beat_now()
        all_joined.wait()
        while instructions.state is RunState.RUNNING and time.monotonic() < deadline:
            for _ in range(20 * (i + 1)):  # one is three times as fast as another
                if counters[i]["env_steps"] < instructions.step_limit:
                    counters[i]["env_steps"] += num_envs
            instructions = actor.beat_now()
        actor.leave()

    threads = [threading.Thread(target=act, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    collected = sum(counter["env_steps"] for counter in counters)
    assert TARGET <= collected <= TARGET + 3 * (num_envs - 1)
    assert totals(address)["actor.env_steps"] == collected
    assert all(counter["env_steps"] > TARGET / 10 for counter in counters)


def test_steps_reserved_for_a_lost_actor_go_to_the_others(fleet, clock):
    first, second = join(fleet, "a"), join(fleet, "b")
    assert first.instructions.step_allowance == TARGET
    assert second.instructions.step_allowance == 0
    pass_time(clock, fleet, LEASE_SECONDS)
    beat(fleet, second)
    pass_time(clock, fleet, 1.0)
    assert beat(fleet, second).step_allowance == TARGET


def test_reservation_outlives_a_restart_of_the_coordinator(tmp_path):
    for expected in (TARGET, 0):
        with serve(tmp_path) as address, rpc.open_channel(address) as channel:
            name = f"actor-{expected}"
            assert join(fleet_pb2_grpc.FleetStub(channel), name).instructions.step_allowance == expected


def test_run_is_collected_then_finished_and_goes_on_with_a_higher_target(tmp_path):
    with serve(tmp_path) as address:
        actor = member(address, "a", {"env_steps": TARGET})
        assert actor.beat_now().state is RunState.RUNNING
        instructions = actor.beat_now()
        assert (instructions.state, instructions.step_allowance) == (RunState.COLLECTED, 0)
        client = FleetClient(address)
        client.finish()
        assert actor.beat_now().state is RunState.FINISHED
        actor.leave()
        client.close()
    for target, state in ((TARGET, RunState.FINISHED), (TARGET + 1, RunState.RUNNING)):
        with serve(tmp_path, target=target) as address:
            client = FleetClient(address)
            assert RunState(client.status().state) is state
            client.close()


# The log


def episode(number, incarnation=1, **kwargs):
    return Episode(incarnation=incarnation, number=number, episode_return=-number, length=7, truncated=True, **kwargs)


def test_episodes_are_idempotent_and_come_back_in_order(tmp_path):
    with serve(tmp_path) as address:
        log = LogClient(address)
        log.append_episodes([episode(n) for n in range(1000)])
        log.append_episodes([episode(n) for n in range(500, 1500)])
        log.close()
    with serve(tmp_path) as address:
        log = LogClient(address)
        pages = list(log.read_episodes())
        assert [e for _, page in pages for e in page] == [episode(n) for n in range(1500)]
        assert [[e.number for e in page] for _, page in log.read_episodes(after_row=pages[-1][0] - 1)] == [[1499]]
        client = FleetClient(address)
        status = client.status()
        assert status.num_episodes == 1500
        assert [e.number for e in status.recent_episodes] == list(range(1400, 1500))
        client.close()
        log.close()


def test_each_page_of_the_log_has_a_deadline_of_its_own(address, monkeypatch):
    log = LogClient(address)
    for first in range(0, 2500, 500):
        log.append_episodes([episode(n) for n in range(first, first + 500)])
    read = Store.episodes

    def read_slowly(self, after_row, limit):
        time.sleep(0.5)
        return read(self, after_row, limit)

    monkeypatch.setattr(Store, "episodes", read_slowly)
    start = time.monotonic()
    assert [len(page) for _, page in log.read_episodes(timeout=1.5)] == [1000, 1000, 500]
    assert time.monotonic() - start > 1.5
    with pytest.raises(CoordinatorUnavailable, match="Deadline Exceeded"):
        list(log.read_episodes(timeout=0.2))
    log.close()


@pytest.mark.parametrize(
    ("limit", "pages"), [(0, [1000, 500]), (1, [1]), (1000, [1000]), (1200, [1000, 200]), (2**64 - 1, [1000, 500])]
)
def test_a_reader_of_the_log_says_how_many_episodes_it_wants(address, limit, pages):
    log = LogClient(address)
    log.append_episodes([episode(n) for n in range(1000)])
    log.append_episodes([episode(n) for n in range(1000, 1500)])
    with grpc.insecure_channel(address) as channel:
        request = log_pb2.ReadEpisodesRequest(limit=limit)
        responses = list(log_pb2_grpc.LogStub(channel).ReadEpisodes(request, timeout=WAIT))
    assert [len(response.episodes) for response in responses] == pages
    assert [response.last_row for response in responses] == list(itertools.accumulate(pages))
    log.close()


def test_repeated_evaluation_replaces_the_earlier(address):
    log = LogClient(address)
    for version, mean in ((1, 10.0), (2, 20.0), (1, 11.0)):
        log.append_evaluation(Evaluation(weights_version=version, seed=3, return_mean=mean, episodes=10), timeout=WAIT)
    assert [(e.weights_version, e.return_mean) for e in log.read_evaluations()] == [(1, 11.0), (2, 20.0)]
    log.close()


def test_the_status_has_the_last_evaluation_and_reads_no_other(address, monkeypatch):
    log, client = LogClient(address), FleetClient(address)
    assert not client.status().HasField("last_evaluation")
    for version, mean in ((1, 10.0), (2, 20.0), (1, 11.0)):
        log.append_evaluation(Evaluation(weights_version=version, seed=3, return_mean=mean, episodes=10), timeout=WAIT)
    monkeypatch.setattr(Store, "evaluations", lambda self: pytest.fail("all evaluations are read for a status"))
    last = client.status().last_evaluation
    assert (last.weights_version, last.return_mean) == (2, 20.0)
    client.close()
    log.close()


def test_malformed_episodes_are_refused(address):
    log = LogClient(address)
    for bad in (episode(2, time=math.nan), episode(2, env_steps=2**64 - 1)):
        with pytest.raises(RunError, match="INVALID_ARGUMENT"):
            log.append_episodes([episode(1), bad])
    with pytest.raises(RunError, match="1000 at most"):
        log.append_episodes([episode(n) for n in range(1001)])
    assert list(log.read_episodes()) == []
    log.close()


def test_sender_loses_nothing_silently_while_the_coordinator_is_away(tmp_path):
    with serve(tmp_path) as address:
        port = int(address.rpartition(":")[2])
    log = LogClient(address)
    sender = EpisodeSender(log, capacity=5)
    for number in range(8):
        sender.add(episode(number))
    assert (sender.pending, sender.dropped) == (5, 3)
    sender.start()
    with serve(tmp_path, port=port):
        sender.close(timeout=WAIT)
        assert (sender.pending, sender.dropped) == (0, 3)
        assert [e.number for _, page in log.read_episodes() for e in page] == [0, 1, 2, 3, 4]
    log.close()


def test_bytes_that_are_no_message_are_one_line_of_the_log(address, caplog):
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/sbrl.v1.Fleet/Join")(b"\xff\xff\xff", timeout=10)
    assert refused.value.code() is grpc.StatusCode.INTERNAL
    (record,) = [record for record in caplog.records if "no message" in record.getMessage()]
    assert record.levelname == "WARNING"
    assert record.exc_info is None
    assert "\n" not in record.getMessage()
