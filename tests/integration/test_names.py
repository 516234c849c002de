"""A name belongs to one process: a live process keeps it, and a dead one's name is free at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import grpc
import pytest

from sbrl.coordination import membership
from sbrl.coordination.lease import NameTakenError
from sbrl.coordination.membership import FleetMember
from sbrl.coordination.process_identity import described, is_gone, own_identity
from sbrl.v1 import fleet_pb2
from services.coordinator.fleet import LEASE_SECONDS
from tests.coordinator import WAIT, heartbeat, join, member, pass_time

IDENTITY = (
    "import sys; from sbrl.coordination.process_identity import own_identity; "
    "print(own_identity(), flush=True); sys.stdin.read()"
)


@pytest.fixture
def other() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process and its identity."""
    command = [sys.executable, "-c", IDENTITY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.kill()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait(WAIT)


def test_the_name_of_a_process_that_lives_is_refused_and_its_lease_holds(address, fleet, other) -> None:
    process, identity = other
    lease = join(fleet, "actor-0", process=identity)
    heartbeat(fleet, lease, env_steps=5)
    second = member(address, "actor-0", {"env_steps": 0})
    with pytest.raises(NameTakenError, match=rf"actor-0 of this run is process {process.pid} on \S+, which is alive: stop it"):
        second.send_heartbeat()
    assert heartbeat(fleet, lease, env_steps=6).env_steps == 6  # nothing was taken from it
    end(process)
    second.send_heartbeat()
    assert second.index == lease.index
    assert second.incarnation > lease.incarnation
    with pytest.raises(grpc.RpcError, match="holds no lease"):
        heartbeat(fleet, lease)
    second.leave()


def test_a_process_that_is_not_known_to_be_gone_keeps_its_name_for_a_lease(address, fleet, clock) -> None:
    """For a process on another machine, only heartbeats show whether it is alive."""
    lease = join(fleet, "actor-0", process="elsewhere boot/pid 17 1.0")
    second = member(address, "actor-0", {})
    for _ in range(2):
        with pytest.raises(NameTakenError):
            second.send_heartbeat()
    pass_time(clock, fleet, LEASE_SECONDS + 1.0)
    second.send_heartbeat()
    assert second.index == lease.index
    second.leave()


def test_the_same_process_takes_its_own_name_again(address, fleet) -> None:
    first, second = member(address, "actor-0", {}), member(address, "actor-0", {})
    first.send_heartbeat()
    second.send_heartbeat()
    assert second.index == first.index
    second.leave()


def test_another_role_may_have_the_name(address, fleet, other) -> None:
    join(fleet, "x", process=other[1])
    evaluator = FleetMember(address, "evaluator", "x", counters=dict)
    evaluator.send_heartbeat()
    evaluator.leave()


def test_who_waits_for_a_taken_name_is_told_after_a_lease(address, fleet, other, monkeypatch) -> None:
    join(fleet, "actor-0", process=other[1])
    monkeypatch.setattr(membership, "TAKEN_SECONDS", 0.0)
    monkeypatch.setattr(membership, "HEARTBEAT_SECONDS", 0.05)
    second = member(address, "actor-0", {})
    second.start()
    with pytest.raises(NameTakenError, match="give this one another --name"):
        second.wait_joined(WAIT / 10)
    second.leave()


def test_a_lease_is_replaced_only_by_whoever_names_it(fleet) -> None:
    """A decision about one process must not end another one that took the name meanwhile."""
    first = join(fleet, "a", process="one")
    second = join(fleet, "a", process="two", replaces=first.incarnation)
    assert second.incarnation > first.incarnation
    third = join(fleet, "a", process="three", replaces=first.incarnation)
    assert (third.incarnation, third.holder, third.holder_incarnation) == (0, "two", second.incarnation)


def test_the_config_is_told_with_every_answer(fleet) -> None:
    assert join(fleet, "a", process="one").config == join(fleet, "a", process="two").config == ""
    assert fleet.GetStatus(fleet_pb2.GetStatusRequest(), timeout=WAIT).config == ""


def test_what_is_known_of_a_process(other) -> None:
    process, identity = other
    assert not is_gone(own_identity())
    assert not is_gone(identity)
    host, world, pid, started = identity.split(" ")
    assert described(identity) == f"process {pid} on {host}"
    for gone in (f"{host} {world} {pid} 1.00", f"{host} other/{world} {pid} {started}", f"{host} {world} {2**22 + 1} 1.0"):
        assert is_gone(gone), gone
    for unknown in ("", "x", f"elsewhere {world} {pid} 1.00", f"{host} {world} {pid}", f"{identity} more"):
        assert not is_gone(unknown), unknown
    assert is_gone(f"{host} {world} not-a-number 1.0")
    end(process)
    assert is_gone(identity)
