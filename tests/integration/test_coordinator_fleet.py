"""The coordinator's leases, counters and instructions over real gRPC, through the clients that the roles use."""

import math
import threading
import time

import grpc
import pytest

from sbrl.coordination.fleet import FleetClient, RunState
from sbrl.coordination.weights import WeightsClient
from sbrl.rpc import channels
from sbrl.rpc.channels import CoordinatorUnavailable
from sbrl.v1 import fleet_pb2, fleet_pb2_grpc
from services.coordinator.fleet import LEASE_SECONDS, Fleet
from services.coordinator.refusal import Refused
from tests.coordinator import GOOD, TARGET, WAIT, heartbeat, join, member, pass_time, serve, totals


def test_indices_are_the_lowest_free_and_come_back_to_their_name(fleet, clock):
    leases = [join(fleet, name) for name in ("a", "b", "c")]
    assert [lease.index for lease in leases] == [0, 1, 2]
    assert join(fleet, "x", role="replay").index == 0  # a count of its own for each role
    pass_time(clock, fleet, LEASE_SECONDS)
    heartbeat(fleet, leases[0])
    pass_time(clock, fleet, 1.0)  # b and c have expired
    with pytest.raises(grpc.RpcError) as error:
        heartbeat(fleet, leases[1])
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
    for call in (fleet.Heartbeat, fleet.Leave):
        with pytest.raises(grpc.RpcError, match="env_steps") as error:
            call(fleet_pb2.HeartbeatRequest(incarnation=lease.incarnation, counters={"env_steps": value}), timeout=WAIT)
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert totals(address).get("actor.env_steps", 0) == 0


@pytest.mark.parametrize("incarnation", [0, 99, 2**64 - 1])
def test_unknown_incarnations_are_not_found(fleet, incarnation):
    for call in (fleet.Heartbeat, fleet.Leave):
        with pytest.raises(grpc.RpcError) as error:
            call(fleet_pb2.HeartbeatRequest(incarnation=incarnation), timeout=WAIT)
        assert error.value.code() is grpc.StatusCode.NOT_FOUND


# Counters


def test_repeated_and_overtaken_heartbeats_count_once(fleet, address):
    lease = join(fleet, "a")
    for steps in (10, 30, 30, 20):
        heartbeat(fleet, lease, env_steps=steps)
    assert totals(address)["actor.env_steps"] == 30


def test_no_lease_expires_while_the_coordinator_is_stopped(fleet, clock):
    """Nobody could send a heartbeat, so all get the time of another lease."""
    first, second = join(fleet, "a"), join(fleet, "b")
    clock.now += 10 * LEASE_SECONDS
    heartbeat(fleet, first)
    heartbeat(fleet, second)
    pass_time(clock, fleet, LEASE_SECONDS + 1.0)
    with pytest.raises(grpc.RpcError, match="holds no lease"):
        heartbeat(fleet, second)


def test_counters_stay_exact_when_a_lease_expires(tmp_path, clock):
    with serve(tmp_path, clock) as address:
        counters = {"env_steps": 0, "episodes": 1}
        actor = member(address, "a", counters)
        first = actor.send_heartbeat() and actor.incarnation
        counters["env_steps"] = 100
        actor.send_heartbeat()
        with channels.open_channel(address) as channel:
            pass_time(clock, fleet_pb2_grpc.FleetStub(channel), LEASE_SECONDS + 1.0)
        counters["env_steps"] = 150  # after the last heartbeat under the old lease
        instructions = actor.send_heartbeat()
        assert actor.incarnation > first
        assert (instructions.env_steps, instructions.step_limit) == (150, TARGET)
        counters["env_steps"] = 175
        actor.send_heartbeat()
        actor.leave()
        assert totals(address) == {"actor.env_steps": 175, "actor.episodes": 1}


def test_counters_stay_exact_when_joining_again_fails_at_first(tmp_path, clock, monkeypatch):
    with serve(tmp_path, clock) as address:
        counters = {"env_steps": 100}
        actor = member(address, "a", counters)
        actor.send_heartbeat()
        actor.send_heartbeat()
        with channels.open_channel(address) as channel:
            pass_time(clock, fleet_pb2_grpc.FleetStub(channel), LEASE_SECONDS + 1.0)
        counters["env_steps"] = 150
        with monkeypatch.context() as patch:
            patch.setattr(Fleet, "join", refuse)
            with pytest.raises(CoordinatorUnavailable):
                actor.send_heartbeat()  # the ended lease is settled, the new one is not given
        counters["env_steps"] = 160
        assert actor.send_heartbeat().state is RunState.RUNNING
        actor.leave()
        assert totals(address) == {"actor.env_steps": 160}


def refuse(fleet, request):
    raise Refused(grpc.StatusCode.UNAVAILABLE, "not now")


def test_counters_leases_and_state_survive_a_restart_of_the_coordinator(tmp_path):
    counters = {"env_steps": 100}
    with serve(tmp_path) as address:
        port = int(address.rpartition(":")[2])
        weights = WeightsClient(address)
        assert weights.acquire_term("test") == (1, 0)
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
        assert weights.acquire_term("test") == (2, 1)
        weights.close()


# The step allowance


@pytest.mark.parametrize("num_envs", [1, 8])
def test_three_actors_collect_exactly_the_target(address, num_envs):
    counters = [{"env_steps": 0} for _ in range(3)]
    all_joined = threading.Barrier(3, timeout=30)  # else the first may be done before the last is there

    def act(i):
        actor = member(address, f"actor-{i}", counters[i])
        deadline = time.monotonic() + 30
        instructions = actor.send_heartbeat()
        all_joined.wait()
        while instructions.state is RunState.RUNNING and time.monotonic() < deadline:
            for _ in range(20 * (i + 1)):  # unequal speeds
                if counters[i]["env_steps"] < instructions.step_limit:
                    counters[i]["env_steps"] += num_envs
            instructions = actor.send_heartbeat()
        actor.leave()

    threads = [threading.Thread(target=act, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    collected = sum(counter["env_steps"] for counter in counters)
    assert TARGET <= collected <= TARGET + 3 * (num_envs - 1)
    assert totals(address)["actor.env_steps"] == collected
    assert all(counter["env_steps"] > 0 for counter in counters)  # how much each is, the machine decides


def test_steps_reserved_for_a_lost_actor_go_to_the_others(fleet, clock):
    first, second = join(fleet, "a"), join(fleet, "b")
    assert first.instructions.step_allowance == TARGET
    assert second.instructions.step_allowance == 0
    pass_time(clock, fleet, LEASE_SECONDS)
    heartbeat(fleet, second)
    pass_time(clock, fleet, 1.0)
    assert heartbeat(fleet, second).step_allowance == TARGET


def test_reservation_outlives_a_restart_of_the_coordinator(tmp_path):
    for expected in (TARGET, 0):
        with serve(tmp_path) as address, channels.open_channel(address) as channel:
            name = f"actor-{expected}"
            assert join(fleet_pb2_grpc.FleetStub(channel), name).instructions.step_allowance == expected


def test_run_is_collected_then_finished_and_goes_on_with_a_higher_target(tmp_path):
    with serve(tmp_path) as address:
        actor = member(address, "a", {"env_steps": TARGET})
        assert actor.send_heartbeat().state is RunState.RUNNING
        instructions = actor.send_heartbeat()
        assert (instructions.state, instructions.step_allowance) == (RunState.COLLECTED, 0)
        client = FleetClient(address)
        client.finish()
        assert actor.send_heartbeat().state is RunState.FINISHED
        actor.leave()
        client.close()
    for target, state in ((TARGET, RunState.FINISHED), (TARGET + 1, RunState.RUNNING)):
        with serve(tmp_path, target=target) as address:
            client = FleetClient(address)
            assert RunState(client.status().state) is state
            client.close()
