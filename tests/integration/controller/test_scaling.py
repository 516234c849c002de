"""What the controller does: it scales the actors, and says why."""

from __future__ import annotations

import logging

import pytest

from sbrl.coordination.fleet import FleetClient
from services.controller.reconcile import Reason
from tests.integration.controller.harness import ACTORS, RULES, SPEC, Controller, look_for, replicas


def test_a_starved_learner_gets_actors_and_an_event_says_why(api, controller, fleet):
    fleet.waiting = 0.5
    one = controller()
    decision = look_for(one, fleet, 60)
    assert (decision.why, replicas(api)) == (Reason.UP, 6)
    assert fleet.clock.now - 1000 == pytest.approx(SPEC.settle_seconds + SPEC.urgent_window_seconds, abs=5)
    (event,) = api.all("events")
    assert (event["reason"], event["type"], event["involvedObject"]["uid"]) == ("ScaledUp", "Normal", f"uid-of-{ACTORS}")
    assert event["message"] == "Scaled actors from 3 to 6: the learner waited 50% of the last 20 s for transitions"
    assert (event["reportingComponent"], event["reportingInstance"]) == ("sbrl-controller", "sbrl-controller-a")
    assert one.metric("changes_total", reason="learner_starved") == 1
    assert one.metric("learner_waiting_ratio") == pytest.approx(0.5, abs=0.01)
    assert one.metric("actors_desired") == 6
    # The new actors have not come: no more are asked for.
    look_for(one, fleet, 120)
    assert replicas(api) == 6


def test_blocked_actors_go(api, controller, fleet):
    fleet.blocked = 0.6
    decision = look_for(controller(), fleet, 200)
    assert (decision.why, replicas(api)) == (Reason.DOWN, 2)
    assert fleet.clock.now - 1000 == pytest.approx(SPEC.settle_seconds + SPEC.window_seconds, abs=5)
    (event,) = api.all("events")
    assert event["message"] == "Scaled actors from 3 to 2: actors were blocked by the learner 60% of the last 60 s"


def test_a_fleet_in_balance_is_left_alone(api, controller, fleet):
    fleet.blocked = 0.07
    look_for(controller(), fleet, 300)
    assert api.writes() == []


def test_a_finished_run_needs_no_actors(api, controller, fleet, address):
    client = FleetClient(address)
    client.finish()
    client.close()
    assert controller().loop.look().why is Reason.DONE
    assert replicas(api) == 0
    assert [event["reason"] for event in api.all("events")] == ["ScaledToZero"]
    assert controller().loop.look().actors == 0  # the API leaves a zero out: it is one all the same
    assert len(api.all("events")) == 1


def test_a_number_beyond_the_bounds_is_brought_within_them(api, controller, fleet):
    api.touch("deployments", ACTORS, replicas=20)
    controller().loop.look()
    assert replicas(api) == SPEC.max_actors


def test_a_shortage_it_may_not_mend_is_told_once_an_hour(api, controller, fleet):
    fleet.waiting = 0.5
    one = controller(spec=SPEC._replace(max_actors=3))
    look_for(one, fleet, 120)
    fleet.waiting, fleet.blocked = 0.0, 0.07  # and again, a little later
    look_for(one, fleet, 60)
    fleet.waiting, fleet.blocked = 0.5, 0.0
    look_for(one, fleet, 60)
    assert replicas(api) == 3
    assert [(event["reason"], event["type"]) for event in api.all("events")] == [("ScaleLimited", "Warning")]
    assert one.metric("limited") == 1
    fleet.live(3600)
    look_for(one, fleet, 120)
    assert len(api.all("events")) == 2


def test_a_dry_run_writes_nothing(api, controller, fleet, caplog):
    caplog.set_level(logging.INFO)
    fleet.waiting = 0.5
    one = controller(dry_run=True, rules=RULES[:1])
    look_for(one, fleet, 60)
    assert one.metric("actors_desired") == 6
    assert "dry run: would scale actors from 3 to 6: the learner waited 50%" in caplog.text
    assert api.writes() == []
    assert one.metric("changes_total", reason="learner_starved") == 0


def test_without_a_coordinator_nothing_is_changed(api, controller, clock, tmp_path, caplog):
    api.touch("deployments", ACTORS, replicas=20)  # beyond the bounds, but the run may be done for all that is known
    one = Controller(api, tmp_path, "127.0.0.1:1", clock)
    assert one.loop.look().reason == "the coordinator does not answer"
    assert one.loop.look().why is Reason.HOLD
    assert api.writes() == []
    assert caplog.text.count("nothing is scaled until it answers") == 1
    assert one.metric("coordinator_failures_total") == 2
    assert one.metric("held") == 1
    one.cluster.close()
