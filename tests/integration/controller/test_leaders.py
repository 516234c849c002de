"""Of several controllers, only one acts."""

from __future__ import annotations

import logging

from services.controller.election import LEASE_SECONDS
from tests.integration.controller.harness import ACTORS, RULES, answer, look_for, replicas
from tests.integration.kubernetes_stand_in import Call


def test_only_the_holder_of_the_lease_acts(api, controller, fleet, caplog):
    caplog.set_level(logging.INFO)
    first, second = controller(lease=True), controller(lease=True, name="sbrl-controller-b")
    first.loop.look()
    assert api.get("leases", "sbrl")["spec"]["holderIdentity"] == "sbrl-controller-a"
    api.touch("deployments", ACTORS, replicas=20)
    second.loop.look()
    assert (replicas(api), second.metric("leader"), second.metric("actors_desired")) == (20, 0, 8)
    assert "standing by: the leader should scale actors from 20 to 8" in caplog.text
    first.loop.look()
    assert (replicas(api), first.metric("leader")) == (8, 1)


def test_a_lease_that_is_not_renewed_is_taken_over(api, controller, fleet, clock):
    first, second = controller(lease=True), controller(lease=True, name="sbrl-controller-b")
    first.loop.look()
    second.loop.look()
    clock.now += LEASE_SECONDS - 1
    second.loop.look()
    assert not second.election.is_leader
    assert not first.election.is_leader  # it stops trusting its lease before the other may take it
    clock.now += 1
    second.loop.look()
    assert second.election.is_leader
    lease = api.get("leases", "sbrl")["spec"]
    assert (lease["holderIdentity"], lease["leaseTransitions"]) == ("sbrl-controller-b", 1)
    first.loop.look()
    assert not first.election.is_leader


def test_a_leader_that_stops_lets_another_take_over_at_once(api, controller, fleet):
    first, second = controller(lease=True), controller(lease=True, name="sbrl-controller-b")
    first.loop.look()
    first.stop.set()
    first.loop.run(lambda: None)
    second.loop.look()
    assert second.election.is_leader
    second.election.resign()
    first.election.resign()  # it holds nothing: nothing happens
    assert api.get("leases", "sbrl")["spec"]["holderIdentity"] == ""


def test_of_two_that_take_a_free_lease_one_gets_it(api, controller, fleet):
    first, second = controller(lease=True), controller(lease=True, name="sbrl-controller-b")
    raced = iter([True])

    def before(call: Call) -> None:
        if call.verb == "create" and call.resource == "leases" and next(raced, False):
            second.election.campaign()

    api.before = before
    first.election.campaign()
    assert (first.election.is_leader, second.election.is_leader) == (False, True)


def test_a_leader_is_trusted_through_a_short_outage_only(api, controller, fleet, clock):
    one = controller(lease=True)
    one.election.campaign()
    api.before = answer(500, only="leases")
    clock.now += 10
    one.election.campaign()
    assert one.election.is_leader
    clock.now += 11
    one.election.campaign()
    assert not one.election.is_leader
    api.before = lambda call: None
    one.election.campaign()
    assert one.election.is_leader


def test_leadership_lost_between_look_and_act_changes_nothing(api, controller, fleet, clock):
    api.touch("deployments", ACTORS, replicas=20)
    one = controller(lease=True)

    def before(call: Call) -> None:
        if call.resource == "deployments/scale":
            clock.now += LEASE_SECONDS  # a call that took long

    api.before = before
    one.loop.look()
    assert replicas(api) == 20
    assert [call.resource for call in api.writes()] == ["leases"]


def test_the_rights_of_the_chart_are_all_that_is_used(api, controller, fleet):
    fleet.waiting = 0.5
    one = controller(lease=True)
    look_for(one, fleet, 60)
    one.election.resign()
    used = {(call.verb, call.resource) for call in api.calls}
    granted = {(verb, resource) for rule in RULES for verb in rule["verbs"] for resource in rule["resources"]}
    assert used == granted
